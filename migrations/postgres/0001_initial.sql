-- Everything is made in the schema that the connection's search_path names first. Times are cut to milliseconds by whoever
-- writes them. Names are those of the domain's `as_str`, and are compared byte by byte (COLLATE "C"), as the domain does.
-- JSON is kept as `json`, not `jsonb`: it is given back as it came, nothing here looks inside it, and it may hold \u0000.

-- A job is written about five times in its life, so that an update should touch no index (HOT): pages keep room for new
-- versions of their rows, and no index names a column that changes before the job's end, but for `sweep_at`, which
-- seldom does. What never changes stands first and what changes last, which keeps the write-ahead log small.
CREATE TABLE jobs (
    id               uuid        NOT NULL PRIMARY KEY,
    created_at       timestamptz NOT NULL,
    deadline         timestamptz NOT NULL,
    tenant           text        COLLATE "C" NOT NULL,
    kind             text        COLLATE "C" NOT NULL,
    priority         text        COLLATE "C" NOT NULL,
    idempotency_key  text        COLLATE "C",
    request_hash     text        COLLATE "C",
    metadata         json        NOT NULL,
    webhook          json,
    spec             json        NOT NULL,
    attempt          bigint      NOT NULL,
    fence            bigint      NOT NULL,
    epoch            bigint      NOT NULL,
    revision         bigint      NOT NULL,
    -- How often the sweeper published it since it was last taken.
    postponed        bigint      NOT NULL,
    -- When the sweeper looks at it next. Set as long as the job is unfinished, and only then.
    due_at           timestamptz,
    -- The same or earlier, for the index: a job that is taken and left in time is never moved in it. The sweeper
    -- brings it up to date when it gets there. Set as long as the job is unfinished, and only then.
    sweep_at         timestamptz,
    -- Until when a worker has it. A lease that has run out still names its last holder.
    lease_until      timestamptz,
    started_at       timestamptz,
    completed_at     timestamptz,
    expires_at       timestamptz,
    status           text        COLLATE "C" NOT NULL,
    stage            text        COLLATE "C" NOT NULL,
    -- The status once it is final, for the index.
    outcome          text        COLLATE "C",
    timings          json        NOT NULL,
    progress         json,
    error            json,
    result           json
) WITH (fillfactor = 45);

CREATE UNIQUE INDEX jobs_by_idempotency_key ON jobs (tenant, idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX jobs_by_tenant ON jobs (tenant, id);
CREATE INDEX jobs_by_outcome ON jobs (tenant, outcome, id) WHERE outcome IS NOT NULL;
CREATE INDEX jobs_due ON jobs (sweep_at) WHERE sweep_at IS NOT NULL;
CREATE INDEX jobs_overdue ON jobs (deadline) WHERE sweep_at IS NOT NULL;
CREATE INDEX jobs_expired ON jobs (expires_at) WHERE expires_at IS NOT NULL;

CREATE TABLE deliveries (
    id           uuid        NOT NULL PRIMARY KEY,
    job_id       uuid        NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    created_at   timestamptz NOT NULL,
    tenant       text        COLLATE "C" NOT NULL,
    url          text        COLLATE "C" NOT NULL,
    event        text        COLLATE "C" NOT NULL,
    -- Set as long as the delivery is pending, and only then.
    next_at      timestamptz,
    -- When it was due before somebody leased it until next_at; set as long as it is leased.
    leased_from  timestamptz,
    status       text        COLLATE "C" NOT NULL,
    attempts     json        NOT NULL
);

CREATE INDEX deliveries_by_job ON deliveries (job_id, created_at, id);
CREATE INDEX deliveries_due ON deliveries (next_at) WHERE next_at IS NOT NULL;

CREATE TABLE collections (
    tenant       text        COLLATE "C" NOT NULL,
    name         text        COLLATE "C" NOT NULL,
    created_at   timestamptz NOT NULL,
    description  text        NOT NULL,
    PRIMARY KEY (tenant, name)
);

-- A document by its identity. What it says is in its versions; it is visible while `live_version` is set.
CREATE TABLE documents (
    id            uuid        NOT NULL PRIMARY KEY,
    tenant        text        COLLATE "C" NOT NULL,
    collection    text        COLLATE "C" NOT NULL,
    external_id   text        COLLATE "C" NOT NULL,
    live_version  bigint,
    last_version  bigint      NOT NULL DEFAULT 0,
    resolved_at   timestamptz NOT NULL,
    created_at    timestamptz,
    updated_at    timestamptz,
    UNIQUE (tenant, collection, external_id)
);

CREATE INDEX documents_by_tenant ON documents (tenant, id) WHERE live_version IS NOT NULL;
CREATE INDEX documents_by_collection ON documents (tenant, collection, id);
CREATE INDEX documents_unpublished ON documents (resolved_at) WHERE live_version IS NULL;

-- The live version of a document and those staged after it. Older ones go when a newer one is published.
CREATE TABLE versions (
    document      uuid        NOT NULL REFERENCES documents (id) ON DELETE CASCADE,
    version       bigint      NOT NULL,
    -- The version that was live when this one was staged.
    base_version  bigint,
    -- The log's position when it was staged.
    position      bigint      NOT NULL,
    chunks        bigint      NOT NULL,
    bytes         bigint      NOT NULL,
    staged_at     timestamptz NOT NULL,
    -- Whether it is live. Older ones are not kept.
    published     boolean     NOT NULL DEFAULT false,
    -- Which job wrote it, and what it did for it: a job that is begun again counts what its earlier attempts have done.
    job           uuid,
    -- Chunks written anew, and chunks removed when it was published.
    embedded      bigint      NOT NULL,
    deleted       bigint      NOT NULL DEFAULT 0,
    -- Tokens that the embedding model read for it.
    tokens        bigint      NOT NULL,
    -- Whether there was no live version before it.
    created       boolean     NOT NULL,
    fingerprint   text        COLLATE "C" NOT NULL,
    media_type    text        COLLATE "C" NOT NULL,
    title         text        NOT NULL,
    uri           text        COLLATE "C",
    metadata      json        NOT NULL,
    PRIMARY KEY (document, version)
);

CREATE INDEX versions_unpublished ON versions (staged_at) WHERE NOT published;

-- Apart from the versions, so that listing these does not read every text. A text is written before its version, which
-- comes last because it holds the log's position.
CREATE TABLE texts (
    document  uuid    NOT NULL,
    version   bigint  NOT NULL,
    text      text    NOT NULL,
    PRIMARY KEY (document, version),
    FOREIGN KEY (document, version) REFERENCES versions (document, version) ON DELETE CASCADE
        DEFERRABLE INITIALLY DEFERRED
);

-- Numbers for puts, in no order: that of the log is its positions'.
CREATE SEQUENCE puts CACHE 1;

-- The chunks of a document's live and staged versions. Content never changes; a vector may be replaced by that of another model.
CREATE TABLE chunks (
    id            uuid    NOT NULL PRIMARY KEY,
    document      uuid    NOT NULL REFERENCES documents (id) ON DELETE CASCADE,
    -- The version with whose title and metadata the log entry is read that put it as it is.
    version       bigint  NOT NULL,
    -- That log entry, and the chunk's place in it.
    put           bigint  NOT NULL,
    number        bigint  NOT NULL,
    model         text    COLLATE "C",
    content_hash  text    COLLATE "C" NOT NULL,
    heading_path  json    NOT NULL,
    text          text    NOT NULL,
    -- Half-precision floats, little-endian.
    vector        bytea
);

-- Vectors do not compress.
ALTER TABLE chunks ALTER COLUMN vector SET STORAGE EXTERNAL;

CREATE INDEX chunks_by_document ON chunks (document);
CREATE INDEX chunks_by_put ON chunks (put);

-- Which versions have which chunk, and where. A chunk without a placement goes.
CREATE TABLE placements (
    document    uuid    NOT NULL REFERENCES documents (id) ON DELETE CASCADE,
    chunk       uuid    NOT NULL,
    version     bigint  NOT NULL,
    ordinal     bigint  NOT NULL,
    start_char  bigint  NOT NULL,
    end_char    bigint  NOT NULL,
    PRIMARY KEY (document, chunk, version)
);

-- The change log. A put names no chunks: they are those whose `put` it is, so a chunk that went is not in it.
CREATE TABLE changes (
    position     bigint      NOT NULL PRIMARY KEY,
    document_id  uuid        NOT NULL,
    at           timestamptz NOT NULL,
    kind         text        COLLATE "C" NOT NULL,
    -- Of a put: its number, and the version with whose title and metadata it is read, while that is there.
    put          bigint,
    version      bigint,
    -- Of a delete: the ids of the chunks, 16 bytes each.
    chunk_ids    bytea
);

CREATE INDEX changes_that_delete ON changes (position) WHERE kind IN ('delete_chunks', 'delete_document');

-- One row: which history this is, the position of the last entry there ever was, and the last position whose delete may have
-- been left out of the log. Who adds to the log holds this row until it has committed, so that positions become visible in order.
CREATE TABLE change_log (
    id       bigint  NOT NULL PRIMARY KEY CHECK (id = 1),
    history  uuid    NOT NULL,
    head     bigint  NOT NULL,
    horizon  bigint  NOT NULL
);

INSERT INTO change_log (id, history, head, horizon) VALUES (1, gen_random_uuid(), 0, 0);

-- Where the replicas of all processes stand.
CREATE TABLE replica_reports (
    instance    uuid        NOT NULL,
    replica     text        COLLATE "C" NOT NULL,
    position    bigint      NOT NULL,
    expires_at  timestamptz NOT NULL,
    PRIMARY KEY (instance, replica)
);

-- Who leads what, and until when.
CREATE TABLE leads (
    name      text        COLLATE "C" NOT NULL PRIMARY KEY,
    instance  uuid        NOT NULL,
    until     timestamptz NOT NULL
);
