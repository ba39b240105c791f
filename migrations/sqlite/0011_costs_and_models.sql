-- What jobs cost, and models by name.

-- What a job was expected to take, a document, since its input was listed to the end.
ALTER TABLE job ADD COLUMN estimate TEXT;
-- What of the job stands in usage_day already, a document: a job that is retried ends more than once.
ALTER TABLE job ADD COLUMN booked TEXT NOT NULL DEFAULT '{}';

-- What jobs took, by the day (since 1970, UTC) on which they ended and by what is asked for: 'day' of all, 'model', 'schedule', 'label.<key>'.
-- It outlives the jobs. Sums of integers: microseconds of devices, billionths of the currency.
CREATE TABLE usage_day (
    dimension       TEXT    NOT NULL,
    day             INTEGER NOT NULL,
    value           TEXT    NOT NULL,
    -- Empty where there was no price.
    currency        TEXT    NOT NULL,
    jobs            INTEGER NOT NULL,
    records         INTEGER NOT NULL,
    device_us       INTEGER NOT NULL,
    retry_device_us INTEGER NOT NULL,
    cost            INTEGER NOT NULL,
    retry_cost      INTEGER NOT NULL,
    PRIMARY KEY (dimension, day, value, currency)
) STRICT, WITHOUT ROWID;

-- What a model with a pipeline has taken on a provider.
CREATE TABLE measured_rate (
    model         TEXT    NOT NULL,
    pipeline      TEXT    NOT NULL,
    provider      TEXT    NOT NULL,
    rate          TEXT    NOT NULL,
    updated_at    INTEGER NOT NULL,
    PRIMARY KEY (model, pipeline, provider)
) STRICT, WITHOUT ROWID;

-- Models by name: what was found at a location when it was registered.
CREATE TABLE model_version (
    name          TEXT    NOT NULL,
    version       INTEGER NOT NULL,
    -- Of all its files.
    digest        TEXT    NOT NULL,
    -- Documents: the model as it was pinned, all inputs and outputs, the pipeline without a job's settings.
    model         TEXT    NOT NULL,
    signature     TEXT    NOT NULL,
    pipeline      TEXT    NOT NULL,
    created_at    INTEGER NOT NULL,
    PRIMARY KEY (name, version),
    UNIQUE (name, digest)
) STRICT, WITHOUT ROWID;

CREATE TABLE model_alias (
    name          TEXT    NOT NULL,
    alias         TEXT    NOT NULL,
    version       INTEGER NOT NULL,
    moved_at      INTEGER NOT NULL,
    PRIMARY KEY (name, alias),
    FOREIGN KEY (name, version) REFERENCES model_version (name, version)
) STRICT, WITHOUT ROWID;
