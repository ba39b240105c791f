-- What jobs cost, and models by name.

-- What a job was expected to take, a document, since its input was listed to the end.
ALTER TABLE job ADD COLUMN estimate TEXT;
-- What of the job stands in usage_day already, a document: a job that is retried ends more than once.
ALTER TABLE job ADD COLUMN booked TEXT NOT NULL DEFAULT '{}';

-- What jobs took, by the day (since 1970, UTC) on which they ended and by what is asked for: 'day' of all, 'model', 'schedule', 'label.<key>'.
-- It outlives the jobs. Sums of integers: microseconds of devices, billionths of the currency.
CREATE TABLE usage_day (
    dimension       TEXT COLLATE "C" NOT NULL,
    day             BIGINT  NOT NULL,
    value           TEXT COLLATE "C" NOT NULL,
    -- Empty where there was no price.
    currency        TEXT    NOT NULL,
    jobs            BIGINT  NOT NULL,
    records         BIGINT  NOT NULL,
    device_us       BIGINT  NOT NULL,
    retry_device_us BIGINT  NOT NULL,
    cost            BIGINT  NOT NULL,
    retry_cost      BIGINT  NOT NULL,
    PRIMARY KEY (dimension, day, value, currency)
);

-- What a model with a pipeline has taken on a provider.
CREATE TABLE measured_rate (
    model         TEXT    NOT NULL,
    pipeline      TEXT    NOT NULL,
    provider      TEXT    NOT NULL,
    rate          TEXT    NOT NULL,
    updated_at    BIGINT  NOT NULL,
    PRIMARY KEY (model, pipeline, provider)
);

-- Models by name: what was found at a location when it was registered.
CREATE TABLE model_version (
    name          TEXT COLLATE "C" NOT NULL,
    version       BIGINT  NOT NULL,
    -- Of all its files.
    digest        TEXT    NOT NULL,
    -- Documents: the model as it was pinned, all inputs and outputs, the pipeline without a job's settings.
    model         TEXT    NOT NULL,
    signature     TEXT    NOT NULL,
    pipeline      TEXT    NOT NULL,
    created_at    BIGINT  NOT NULL,
    PRIMARY KEY (name, version),
    UNIQUE (name, digest)
);

CREATE TABLE model_alias (
    name          TEXT COLLATE "C" NOT NULL,
    alias         TEXT COLLATE "C" NOT NULL,
    version       BIGINT  NOT NULL,
    moved_at      BIGINT  NOT NULL,
    PRIMARY KEY (name, alias),
    FOREIGN KEY (name, version) REFERENCES model_version (name, version)
);
