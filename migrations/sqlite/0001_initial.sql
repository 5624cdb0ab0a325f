-- Times are milliseconds since 1970 in UTC, ids are UUIDs of 16 bytes, names are those of the domain's `as_str`.
-- AUTOINCREMENT on the keys that other tables name, so that a key is never used for a second thing.

CREATE TABLE jobs (
    id               BLOB    NOT NULL PRIMARY KEY,
    tenant           TEXT    NOT NULL,
    kind             TEXT    NOT NULL,
    status           TEXT    NOT NULL,
    stage            TEXT    NOT NULL,
    attempt          INTEGER NOT NULL,
    fence            INTEGER NOT NULL,
    epoch            INTEGER NOT NULL,
    priority         TEXT    NOT NULL,
    created_at       INTEGER NOT NULL,
    started_at       INTEGER,
    completed_at     INTEGER,
    deadline         INTEGER NOT NULL,
    expires_at       INTEGER,
    revision         INTEGER NOT NULL,
    -- When the sweeper looks at it next. Set as long as the job is unfinished, and only then.
    due_at           INTEGER,
    -- Until when a worker has it. A lease that has run out still names its last holder.
    lease_until      INTEGER,
    -- How often the sweeper published it since it was last taken.
    postponed        INTEGER NOT NULL,
    idempotency_key  TEXT,
    request_hash     TEXT,
    spec             TEXT    NOT NULL,
    metadata         TEXT    NOT NULL,
    webhook          TEXT,
    progress         TEXT,
    timings          TEXT    NOT NULL,
    error            TEXT,
    result           TEXT
) STRICT;

CREATE UNIQUE INDEX jobs_by_idempotency_key ON jobs (tenant, idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX jobs_by_tenant ON jobs (tenant, id);
CREATE INDEX jobs_by_status ON jobs (tenant, status, id);
CREATE INDEX jobs_due ON jobs (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX jobs_overdue ON jobs (deadline) WHERE due_at IS NOT NULL;
CREATE INDEX jobs_waiting ON jobs (stage, lease_until) WHERE due_at IS NOT NULL;
CREATE INDEX jobs_expired ON jobs (expires_at) WHERE expires_at IS NOT NULL;

CREATE TABLE deliveries (
    id          BLOB    NOT NULL PRIMARY KEY,
    job_id      BLOB    NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    tenant      TEXT    NOT NULL,
    url         TEXT    NOT NULL,
    event       TEXT    NOT NULL,
    status      TEXT    NOT NULL,
    attempts    TEXT    NOT NULL,
    -- Set as long as the delivery is pending, and only then.
    next_at     INTEGER,
    -- When it was due before somebody leased it until next_at; set as long as it is leased.
    leased_from INTEGER,
    created_at  INTEGER NOT NULL
) STRICT;

CREATE INDEX deliveries_by_job ON deliveries (job_id, created_at, id);
CREATE INDEX deliveries_due ON deliveries (next_at) WHERE next_at IS NOT NULL;

CREATE TABLE collections (
    tenant       TEXT    NOT NULL,
    name         TEXT    NOT NULL,
    description  TEXT    NOT NULL,
    created_at   INTEGER NOT NULL,
    PRIMARY KEY (tenant, name)
) STRICT, WITHOUT ROWID;

-- A document by its identity. What it says is in its versions; it is visible while `live_version` is set.
CREATE TABLE documents (
    key           INTEGER PRIMARY KEY AUTOINCREMENT,
    id            BLOB    NOT NULL UNIQUE,
    tenant        TEXT    NOT NULL,
    collection    TEXT    NOT NULL,
    external_id   TEXT    NOT NULL,
    live_version  INTEGER,
    last_version  INTEGER NOT NULL DEFAULT 0,
    resolved_at   INTEGER NOT NULL,
    created_at    INTEGER,
    updated_at    INTEGER,
    UNIQUE (tenant, collection, external_id)
) STRICT;

CREATE INDEX documents_by_tenant ON documents (tenant, id) WHERE live_version IS NOT NULL;
CREATE INDEX documents_by_collection ON documents (tenant, collection, id, key, live_version) WHERE live_version IS NOT NULL;
CREATE INDEX documents_unpublished ON documents (resolved_at) WHERE live_version IS NULL;

-- The live version of a document and those staged after it. Older ones go when a newer one is published.
CREATE TABLE versions (
    document      INTEGER NOT NULL REFERENCES documents (key) ON DELETE CASCADE,
    version       INTEGER NOT NULL,
    -- The version that was live when this one was staged.
    base_version  INTEGER,
    -- The log's position when it was staged.
    position      INTEGER NOT NULL,
    chunks        INTEGER NOT NULL,
    bytes         INTEGER NOT NULL,
    staged_at     INTEGER NOT NULL,
    fingerprint   TEXT    NOT NULL,
    media_type    TEXT    NOT NULL,
    title         TEXT    NOT NULL,
    uri           TEXT,
    metadata      TEXT    NOT NULL,
    PRIMARY KEY (document, version)
) STRICT, WITHOUT ROWID;

CREATE INDEX versions_by_age ON versions (staged_at);

-- Apart from the versions, so that listing these does not read every text.
CREATE TABLE texts (
    document  INTEGER NOT NULL,
    version   INTEGER NOT NULL,
    text      TEXT    NOT NULL,
    PRIMARY KEY (document, version),
    FOREIGN KEY (document, version) REFERENCES versions (document, version) ON DELETE CASCADE
) STRICT;

-- The chunks of a document's live and staged versions. Content never changes; a vector may be replaced by that of another model.
CREATE TABLE chunks (
    key           INTEGER PRIMARY KEY AUTOINCREMENT,
    id            BLOB    NOT NULL UNIQUE,
    document      INTEGER NOT NULL REFERENCES documents (key) ON DELETE CASCADE,
    -- The log entry that put it as it is, and the version with whose title and metadata that entry is read.
    version       INTEGER NOT NULL,
    position      INTEGER NOT NULL,
    model         TEXT,
    content_hash  TEXT    NOT NULL,
    heading_path  TEXT    NOT NULL,
    text          TEXT    NOT NULL,
    -- Half-precision floats, little-endian.
    vector        BLOB
) STRICT;

CREATE INDEX chunks_by_document ON chunks (document);
CREATE INDEX chunks_by_position ON chunks (position);

-- Which versions have which chunk, and where. A chunk without a placement goes.
CREATE TABLE placements (
    chunk        INTEGER NOT NULL REFERENCES chunks (key) ON DELETE CASCADE,
    version      INTEGER NOT NULL,
    ordinal      INTEGER NOT NULL,
    start_char   INTEGER NOT NULL,
    end_char     INTEGER NOT NULL,
    PRIMARY KEY (chunk, version)
) STRICT, WITHOUT ROWID;

-- The change log. A put names no chunks: they are those whose `position` it is, so a chunk that went is not in it.
CREATE TABLE changes (
    position     INTEGER PRIMARY KEY AUTOINCREMENT,
    kind         TEXT    NOT NULL,
    document_id  BLOB    NOT NULL,
    -- Of a put: the version with whose title and metadata it is read, while that is there.
    version      INTEGER,
    -- Of a delete: the ids of the chunks, 16 bytes each.
    chunk_ids    BLOB,
    at           INTEGER NOT NULL
) STRICT;

-- One row: which history this is, and the last position whose delete may have been left out of the log.
CREATE TABLE change_log (
    id       INTEGER PRIMARY KEY CHECK (id = 1),
    history  BLOB    NOT NULL,
    horizon  INTEGER NOT NULL
) STRICT;

INSERT INTO change_log (id, history, horizon) VALUES (1, randomblob(16), 0);
