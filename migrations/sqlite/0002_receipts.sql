-- Which job wrote a version, and what it did for it: a job that is begun again counts what its earlier attempts have done.
ALTER TABLE versions ADD COLUMN job BLOB;
-- Chunks written anew, and chunks removed when it was published.
ALTER TABLE versions ADD COLUMN embedded INTEGER NOT NULL DEFAULT 0;
ALTER TABLE versions ADD COLUMN deleted INTEGER NOT NULL DEFAULT 0;
-- Tokens that the embedding model read for it.
ALTER TABLE versions ADD COLUMN tokens INTEGER NOT NULL DEFAULT 0;
-- Whether there was no live version before it.
ALTER TABLE versions ADD COLUMN created INTEGER NOT NULL DEFAULT 0;
