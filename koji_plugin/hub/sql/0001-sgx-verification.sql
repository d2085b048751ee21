-- SPDX-License-Identifier: GPL-2.0-or-later
-- Tables of the hub plugin sgx_enclaves_hub. Run once, as the owner of Koji's database:
--     psql -v ON_ERROR_STOP=1 koji koji < 0001-sgx-verification.sql
-- Running it again changes nothing. Load it before the plugin is switched on, and again with each
-- new version of the plugin.
--
-- A record is written once and never changed: triggers refuse UPDATE, DELETE and
-- TRUNCATE. Somebody who may change the schema can drop them; their absence shows.

BEGIN;

-- Of an earlier version; all that it held is in the records.
DROP TABLE IF EXISTS sgx_verification_enclave;
CREATE TABLE IF NOT EXISTS sgx_verification (
    id           SERIAL PRIMARY KEY,
    build_id     INTEGER NOT NULL REFERENCES build (id),
    task_id      INTEGER NOT NULL UNIQUE REFERENCES task (id),
    host_id      INTEGER NOT NULL REFERENCES host (id),
    release      TEXT NOT NULL,
    origin       TEXT NOT NULL,
    verdict      TEXT NOT NULL CHECK (verdict IN ('identical', 'differs', 'unverifiable')),
    reproducible BOOLEAN NOT NULL,
    create_time  TIMESTAMPTZ NOT NULL DEFAULT NOW(),
    -- The whole record as JSON; the columns above repeat what is searched for most.
    record       TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS sgx_verification_build ON sgx_verification (build_id, id);

CREATE INDEX IF NOT EXISTS sgx_verification_of_enclave
    ON sgx_verification USING gin ((record::jsonb -> 'enclaves') jsonb_path_ops);

-- Digest of the names and checksums that the build's packages had in the database then.
ALTER TABLE sgx_verification ADD COLUMN IF NOT EXISTS packages TEXT;

-- The names that renamed tags have had: a tag that [enforce] of the configuration gates stays gated
-- under another name, and a tag that has taken the name of an allowed build tag is not trusted.
ALTER TABLE IF EXISTS sgx_gated_tag RENAME TO sgx_former_tag_name;
CREATE TABLE IF NOT EXISTS sgx_former_tag_name (
    tag_id INTEGER NOT NULL REFERENCES tag (id),
    name   TEXT NOT NULL,
    PRIMARY KEY (tag_id, name)
);

CREATE OR REPLACE FUNCTION sgx_note_tag_name() RETURNS trigger AS $$
BEGIN
    INSERT INTO sgx_former_tag_name VALUES (OLD.id, OLD.name) ON CONFLICT DO NOTHING;
    RETURN NULL;
END;
$$ LANGUAGE plpgsql;

DROP TRIGGER IF EXISTS sgx_tag_renamed ON tag;
CREATE TRIGGER sgx_tag_renamed
    AFTER UPDATE OF name ON tag
    FOR EACH ROW WHEN (OLD.name <> NEW.name) EXECUTE PROCEDURE sgx_note_tag_name();

-- Locks: the packages that a release's buildroots must have. The newest of a release counts.
CREATE TABLE IF NOT EXISTS sgx_lock (
    id          SERIAL PRIMARY KEY,
    release     TEXT NOT NULL,
    sha256      TEXT NOT NULL,
    task_id     INTEGER NOT NULL REFERENCES task (id),
    user_id     INTEGER NOT NULL REFERENCES users (id),
    create_time TIMESTAMPTZ NOT NULL DEFAULT NOW(),
    -- In the format of mock's buildroot_lock plugin.
    lock        TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS sgx_lock_release ON sgx_lock (release, id);

CREATE OR REPLACE FUNCTION sgx_verification_is_final() RETURNS trigger AS $$
BEGIN
    RAISE EXCEPTION 'verification records are never changed: % on % is refused',
        TG_OP, TG_TABLE_NAME;
END;
$$ LANGUAGE plpgsql;

DROP TRIGGER IF EXISTS sgx_verification_final ON sgx_verification;
CREATE TRIGGER sgx_verification_final
    BEFORE UPDATE OR DELETE OR TRUNCATE ON sgx_verification
    FOR EACH STATEMENT EXECUTE PROCEDURE sgx_verification_is_final();
DROP TRIGGER IF EXISTS sgx_lock_final ON sgx_lock;
CREATE TRIGGER sgx_lock_final
    BEFORE UPDATE OR DELETE OR TRUNCATE ON sgx_lock
    FOR EACH STATEMENT EXECUTE PROCEDURE sgx_verification_is_final();

-- Whoever has no permission has builds read one after another; see getSgxGateStatus.
INSERT INTO locks (name) VALUES ('sgx-enclaves-inspection') ON CONFLICT DO NOTHING;

INSERT INTO permissions (name, description)
    VALUES ('sgx-enclaves', 'Start verifications of SGX enclaves'),
           ('sgx-enclaves-lock', 'Pin the buildroots of verifications')
    ON CONFLICT DO NOTHING;

COMMIT;
