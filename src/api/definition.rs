//! A job definition, from JSON to [`JobSpec`], with every fault at once.

use globset::GlobBuilder;
use serde_json::Value;

use super::{
    meant, pipeline,
    read::{Faults, Field, Object, did_you_mean},
    waits, webhook,
};
use crate::domain::{
    Budget, Fault, JobId, JobSpec, Pipeline, Uri,
    spec::{
        CsvOptions, DriftSpec, ErrorPolicy, ExecutionSpec, IfExists, IncludeInput, InputCompression, InputFormat, InputKind, InputSpec,
        Layout, OutputCompression, OutputFormat, OutputSpec, ReviewSpec,
    },
    table::{TableMode, TableName, TableSpec},
};

pub(super) const JOB: [&str; 13] = [
    "name",
    "labels",
    "model",
    "input",
    "output",
    "pipeline",
    "execution",
    "error_policy",
    "drift",
    "budget",
    "webhook",
    "wait_for",
    "depends_on",
];
pub(super) const MODEL: [&str; 4] = ["uri", "name", "version", "alias"];
pub(super) const INPUT: [&str; 7] = ["uri", "format", "compression", "include", "exclude", "manifest", "csv"];
pub(super) const CSV: [&str; 2] = ["delimiter", "header"];
pub(super) const OUTPUT: [&str; 9] =
    ["uri", "format", "compression", "include_input", "prediction_prefix", "layout", "if_exists", "table", "review"];
pub(super) const TABLE: [&str; 6] = ["connection", "table", "mode", "key", "create", "parts"];
pub(super) const REVIEW: [&str; 2] = ["uri", "when"];
pub(super) const EXECUTION: [&str; 7] =
    ["batch_size", "chunk_records", "priority", "max_parallel_chunks", "max_attempts", "deadline", "providers"];
pub(super) const DRIFT: [&str; 2] = ["against", "threshold"];
pub(super) const ERROR_POLICY: [&str; 2] = ["max_failed_records", "max_failed_ratio"];
pub(super) const BUDGET: [&str; 1] = ["max_cost"];

pub(super) const FORMATS: [(&str, InputFormat); 9] = [
    ("auto", InputFormat::Auto),
    ("parquet", InputFormat::Parquet),
    ("csv", InputFormat::Csv),
    ("jsonl", InputFormat::Jsonl),
    ("arrow", InputFormat::Arrow),
    ("image", InputFormat::Image),
    ("text", InputFormat::Text),
    ("lines", InputFormat::Lines),
    ("tar", InputFormat::Tar),
];
pub(super) const COMPRESSIONS: [(&str, InputCompression); 4] = [
    ("auto", InputCompression::Auto),
    ("none", InputCompression::None),
    ("gzip", InputCompression::Gzip),
    ("zstd", InputCompression::Zstd),
];
pub(super) const OUTPUT_FORMATS: [(&str, OutputFormat); 3] =
    [("jsonl", OutputFormat::Jsonl), ("csv", OutputFormat::Csv), ("parquet", OutputFormat::Parquet)];
pub(super) const OUTPUT_COMPRESSIONS: [(&str, OutputCompression); 3] =
    [("none", OutputCompression::None), ("gzip", OutputCompression::Gzip), ("zstd", OutputCompression::Zstd)];
pub(super) const LAYOUTS: [(&str, Layout); 2] = [("parts", Layout::Parts), ("mirror", Layout::Mirror)];
pub(super) const TABLE_MODES: [(&str, TableMode); 2] = [("replace_chunk", TableMode::ReplaceChunk), ("upsert", TableMode::Upsert)];
pub(super) const IF_EXISTS: [(&str, IfExists); 2] = [("fail", IfExists::Fail), ("replace", IfExists::Replace)];
/// Fields by the object that they stand in.
const BELOW: [(&str, &[&str]); 6] = [
    ("input", &INPUT),
    ("output", &OUTPUT),
    ("pipeline", &pipeline::PIPELINE),
    ("execution", &EXECUTION),
    ("error_policy", &ERROR_POLICY),
    ("budget", &BUDGET),
];
const MOST_LABELS: usize = 32;
const LONGEST_LABEL: usize = 256;

/// Reads a definition.
///
/// # Errors
/// Every fault in it.
pub(super) fn read(value: &Value, providers: &[String]) -> Result<JobSpec, Vec<Fault>> {
    let mut faults = Faults::default();
    let spec = job(&Field::root(value), providers, &mut faults);
    match spec {
        Some(spec) if faults.0.is_empty() => Ok(spec),
        _ => Err(faults.0),
    }
}

fn job(root: &Field<'_>, providers: &[String], faults: &mut Faults) -> Option<JobSpec> {
    let job = root.object(&JOB, faults);
    if !job.is_present() {
        return None;
    }
    // A field that is known one level below has slipped.
    for fault in faults.0.iter_mut().filter(|fault| fault.code == "unknown_field") {
        let name = fault.pointer.trim_start_matches('/');
        let homes: Vec<&str> = BELOW.iter().filter(|(_, fields)| fields.contains(&name)).map(|(home, _)| *home).collect();
        if !homes.is_empty() {
            fault.hint = Some(format!("{name} is a field of {}: write {:?}: {{…, {name:?}: …}}", homes.join(" and of "), homes[0]));
        }
    }
    let name = job.field("name").text("write a text in quotes", faults).map(str::to_owned);
    if name.as_ref().is_some_and(|n| n.len() > LONGEST_LABEL) {
        faults.add(&job.field("name"), "too_long", format!("the name has more than {LONGEST_LABEL} bytes"), "shorten it");
    }
    let labels = labels(&job.field("labels"), faults);
    let model = model(&job.field("model"), faults);
    let input = input(&job.field("input"), faults);
    let output = output(&job.field("output"), faults);
    let pipeline = pipeline::read(&job.field("pipeline"), faults);
    let execution = execution(&job.field("execution"), providers, faults);
    let policy = job.field("error_policy").object(&ERROR_POLICY, faults);
    let error_policy = ErrorPolicy {
        max_failed_records: policy.field("max_failed_records").integer(0..=i64::MAX, faults).map(|n| n as u64),
        max_failed_ratio: policy.field("max_failed_ratio").share(faults),
    };
    let drift = drift(&job.field("drift"), faults);
    let budget = budget(&job.field("budget"), faults);
    let webhook = webhook::read(&job.field("webhook"), faults);
    let wait_for = waits::wait_for(&job.field("wait_for"), faults);
    let depends_on = waits::depends_on(&job.field("depends_on"), faults);
    if let (Some(input), Some(output)) = (&input, &output) {
        check_overlap(&job.field("output"), &input.uri, &output.uri, faults);
        if input.kind == InputKind::Manifest && output.layout == Layout::Mirror {
            let layout = job.field("output").child("layout");
            let detail = "layout \"mirror\" names outputs like the objects below one prefix, and a manifest has none";
            faults.add(&layout, "layout_needs_prefix", detail, "write \"parts\", or name a prefix in input.uri");
        }
        if output.layout == Layout::Mirror && output.table.as_ref().is_some_and(|table| !table.parts) {
            let parts = job.field("output").child("table").child("parts");
            let detail = "layout \"mirror\" names parts, and there are none";
            faults.add(&parts, "contradiction", detail, "leave one of them out");
        }
        if let Some(review) = &output.review {
            check_review(&job.field("output").child("review"), &input.uri, output, &review.uri, faults);
        }
    }
    let (model, input, output) = (model?, input?, output?);
    Some(JobSpec { name, labels, model, input, output, pipeline, execution, error_policy, drift, budget, webhook, wait_for, depends_on })
}

fn drift(field: &Field<'_>, faults: &mut Faults) -> Option<DriftSpec> {
    let drift = field.object(&DRIFT, faults);
    if !drift.is_present() {
        return None;
    }
    let against = drift.field("against");
    let id = against.text("write the id of a job in quotes", faults);
    let job = id.and_then(JobId::parse);
    if id.is_some() && job.is_none() {
        faults.add(&against, "wrong_value", "this is no id of a job", "give the id as GET /v1/jobs shows it: job_ and 32 digits");
    }
    let threshold = drift.field("threshold");
    let index = threshold.number(faults);
    if index.is_some_and(|index| index <= 0.0) {
        faults.add(&threshold, "out_of_range", "the threshold is not above 0", "0.1 is little as a rule, 0.25 is much");
    }
    Some(DriftSpec { against: job, threshold: index })
}

/// Output inside the input would be read as input, by this job or by the next; input inside the output could be taken for parts.
fn check_overlap(field: &Field<'_>, input: &Uri, output: &Uri, faults: &mut Faults) {
    let clash =
        if input.is_prefix() { input.contains(output) } else { output == &input.as_prefix() } || output.join("errors/").contains(input);
    if clash {
        let detail = format!("{output} and the input {input} overlap: results would be read as input");
        faults.add(field, "output_overlaps_input", detail, "choose an output prefix that is not inside the input prefix");
    }
}

/// Two queues in one place would take each other's parts for their own.
fn check_review(field: &Field<'_>, input: &Uri, output: &OutputSpec, review: &Uri, faults: &mut Faults) {
    check_overlap(field, input, review, faults);
    if output.uri.overlaps(review) {
        let detail = format!("{review} and the output {} overlap: each needs a prefix of its own", output.uri);
        faults.add(field, "review_overlaps_output", detail, "choose a review prefix beside the output prefix");
    }
    // A queue is cut as the work was, and whoever works at an earlier one must not lose it.
    for (chosen, other) in [
        (output.layout == Layout::Mirror, "output.layout \"mirror\""),
        (output.if_exists == IfExists::Replace, "output.if_exists \"replace\""),
    ] {
        if chosen {
            let detail = format!("a review queue does not go together with {other}");
            faults.add(field, "contradiction", detail, "leave one of them out");
        }
    }
}

fn labels(field: &Field<'_>, faults: &mut Faults) -> std::collections::BTreeMap<String, String> {
    let labels = field.text_map(faults).unwrap_or_default();
    if labels.len() > MOST_LABELS {
        faults.add(field, "too_many", format!("{} labels are more than {MOST_LABELS}", labels.len()), "keep what jobs are found by");
    }
    for (key, value) in &labels {
        let label = field.child(key);
        if key.is_empty() {
            faults.add(&label, "empty_key", "a label needs a name", "write {\"team\": \"risk\"}");
        }
        if meant::is_secret(key, value) {
            const DETAIL: &str = "this looks like a credential, and labels are kept and shown in lists";
            faults.add(&label, "secret_in_label", DETAIL, "leave it out, and replace the credential if it is a real one");
        }
        if key.len() > LONGEST_LABEL || value.len() > LONGEST_LABEL {
            faults.add(&label, "too_long", format!("keys and values of labels have at most {LONGEST_LABEL} bytes"), "shorten it");
        }
    }
    labels
}

/// A string is short for an object with a `uri`.
fn location(field: &Field<'_>, known: &[&str], example: &str, faults: &mut Faults) -> Option<Uri> {
    if !field.required(&format!("write a location such as {example:?}"), faults) {
        return None;
    }
    if field.value().is_some_and(Value::is_string) {
        return field.uri(example, faults);
    }
    let object = field.object(known, faults);
    if !object.is_present() {
        return None;
    }
    let uri = object.field("uri");
    if !uri.required(&format!("write a location such as {example:?}"), faults) {
        return None;
    }
    uri.uri(example, faults)
}

/// The location of a job's model. One that is named was given its location before this.
fn model(field: &Field<'_>, faults: &mut Faults) -> Option<Uri> {
    for other in ["version", "alias"] {
        let other = field.child(other);
        if other.value().is_some_and(|value| !value.is_null()) {
            faults.add(&other, "missing_name", "versions and aliases are those of a registered model", "give its name, and no uri");
        }
    }
    model_location(field, faults)
}

/// The location of a model: a folder or one `.onnx` object.
pub(super) fn model_location(field: &Field<'_>, faults: &mut Faults) -> Option<Uri> {
    const EXAMPLE: &str = "s3://models/fraud/";
    let uri = location(field, &MODEL, EXAMPLE, faults)?;
    if let Some(what) = meant::other_model(&uri) {
        faults.add(field, "unsupported_model", format!("by its name {uri} is {what}, and only ONNX models are run"), meant::EXPORT);
        return None;
    }
    let folder = uri.is_prefix() || uri.path().ends_with(".onnx");
    Some(if folder { uri } else { uri.as_prefix() })
}

fn input(field: &Field<'_>, faults: &mut Faults) -> Option<InputSpec> {
    let named = |name: &str| field.value().and_then(|v| v.get(name)).is_some_and(|v| !v.is_null());
    let kind = if named("manifest") { InputKind::Manifest } else { InputKind::Objects };
    let uri = match kind {
        InputKind::Objects => location(field, &INPUT, "s3://lake/transactions/2026-11-23/", faults),
        InputKind::Manifest => manifest(&field.object(&INPUT, faults), faults),
    };
    if !field.value().is_some_and(Value::is_object) {
        return Some(InputSpec {
            uri: uri?,
            kind,
            format: InputFormat::Auto,
            compression: InputCompression::Auto,
            include: Vec::new(),
            exclude: Vec::new(),
            csv: CsvOptions::default(),
        });
    }
    let object = field.any_object(faults);
    let format = object.field("format").choice(&FORMATS, faults).unwrap_or_default();
    let compression = object.field("compression").choice(&COMPRESSIONS, faults).unwrap_or_default();
    let include = globs(&object.field("include"), faults);
    let exclude = globs(&object.field("exclude"), faults);
    for (name, globs) in [("include", &include), ("exclude", &exclude)] {
        if kind == InputKind::Manifest && !globs.is_empty() {
            faults.add(&object.field(name), "not_applicable", "globs choose below a prefix; a manifest names each object", "leave it out");
        }
    }
    let csv = csv(&object.field("csv"), faults);
    Some(InputSpec { uri: uri?, kind, format, compression, include, exclude, csv })
}

fn manifest(object: &Object<'_>, faults: &mut Faults) -> Option<Uri> {
    const EXAMPLE: &str = "s3://lake/lists/2026-11-23.jsonl";
    let (uri, manifest) = (object.field("uri"), object.field("manifest"));
    if uri.value().is_some() {
        faults.add(&uri, "two_inputs", "both input.uri and input.manifest are there", "give one of them");
        return None;
    }
    let found = manifest.uri(EXAMPLE, faults)?;
    if found.is_prefix() {
        let detail = format!("{found} is a prefix; a manifest is one object of JSON Lines, each {{\"uri\": \"s3://…\"}}");
        faults.add(&manifest, "invalid_uri", detail, format!("name an object such as {EXAMPLE:?}"));
        return None;
    }
    Some(found)
}

fn globs(field: &Field<'_>, faults: &mut Faults) -> Vec<String> {
    let patterns = field.texts(faults).unwrap_or_default();
    for (at, pattern) in patterns.iter().enumerate() {
        if let Err(error) = GlobBuilder::new(pattern).literal_separator(true).build() {
            faults.add(
                &field.child(&at.to_string()),
                "invalid_glob",
                format!("{pattern:?}: {}", error.kind()),
                "write a glob such as \"**/*.parquet\"",
            );
        }
    }
    patterns
}

fn csv(field: &Field<'_>, faults: &mut Faults) -> CsvOptions {
    let object = field.object(&CSV, faults);
    let mut options = CsvOptions::default();
    let delimiter = object.field("delimiter");
    const HINT: &str = "write one character such as \",\", \";\" or \"\\t\"";
    if let Some(text) = delimiter.text(HINT, faults) {
        match text.as_bytes() {
            [byte] if byte.is_ascii() && !matches!(byte, b'"' | b'\n' | b'\r') => options.delimiter = *byte,
            _ => faults.add(&delimiter, "invalid_delimiter", format!("{text:?} cannot separate fields"), HINT),
        }
    }
    options.header = object.field("header").bool(faults).unwrap_or(options.header);
    options
}

fn output(field: &Field<'_>, faults: &mut Faults) -> Option<OutputSpec> {
    let uri = location(field, &OUTPUT, "s3://lake/scores/2026-11-23/", faults);
    let mut spec = OutputSpec {
        uri: uri.clone().unwrap_or_else(|| Uri::parse("s3://unused/").expect("a location")).as_prefix(),
        format: OutputFormat::Jsonl,
        compression: OutputCompression::None,
        include_input: IncludeInput::None,
        prediction_prefix: String::new(),
        layout: Layout::Parts,
        if_exists: IfExists::Fail,
        review: None,
        table: None,
    };
    if field.value().is_some_and(Value::is_object) {
        let object = field.any_object(faults);
        spec.format = object.field("format").choice(&OUTPUT_FORMATS, faults).unwrap_or_default();
        let compression = object.field("compression");
        spec.compression = compression.choice(&OUTPUT_COMPRESSIONS, faults).unwrap_or_default();
        if spec.format == OutputFormat::Parquet && spec.compression == OutputCompression::Gzip {
            faults.add(&compression, "unknown_value", "Parquet compresses inside itself, with zstd", "leave this field out");
        }
        spec.include_input = include_input(&object.field("include_input"), faults);
        let prefix = object.field("prediction_prefix").text("write a text in quotes", faults);
        spec.prediction_prefix = prefix.unwrap_or_default().to_owned();
        spec.layout = object.field("layout").choice(&LAYOUTS, faults).unwrap_or_default();
        spec.if_exists = object.field("if_exists").choice(&IF_EXISTS, faults).unwrap_or_default();
        spec.table = table(&object.field("table"), faults);
        spec.review = review(&object.field("review"), faults);
    }
    uri.is_some().then_some(spec)
}

fn table(field: &Field<'_>, faults: &mut Faults) -> Option<TableSpec> {
    const CONNECTION: &str = "name a section [connections.NAME] of the service's configuration, such as \"warehouse\"";
    const NAME: &str = "write a name such as \"scores\" or \"risk.scores\"";
    const KEY: &str = "name columns of the rows that tell them apart, such as [\"id\"]";
    let object = field.object(&TABLE, faults);
    if !object.is_present() {
        return None;
    }
    let (connection, table, key) = (object.field("connection"), object.field("table"), object.field("key"));
    let mode = object.field("mode").choice(&TABLE_MODES, faults).unwrap_or_default();
    let create = object.field("create").bool(faults).unwrap_or(false);
    let parts = object.field("parts").bool(faults).unwrap_or(true);
    let named = if connection.required(CONNECTION, faults) { connection.text(CONNECTION, faults).map(str::to_owned) } else { None };
    let text = if table.required(NAME, faults) { table.text(NAME, faults) } else { None };
    let name = text.and_then(|text| match TableName::try_from(text.to_owned()) {
        Ok(name) => Some(name),
        Err(error) => {
            faults.add(&table, "invalid_table", error.to_string(), NAME);
            None
        }
    });
    let columns = key.texts(faults).unwrap_or_default();
    match mode {
        TableMode::Upsert if columns.is_empty() => faults.add(&key, "missing", "mode \"upsert\" needs a key", KEY),
        TableMode::ReplaceChunk if !columns.is_empty() => {
            faults.add(&key, "contradiction", "only mode \"upsert\" has a key", "leave it out, or write \"mode\": \"upsert\"");
        }
        _ => {}
    }
    Some(TableSpec { connection: named?, table: name?, mode, key: columns, create, parts })
}

fn review(field: &Field<'_>, faults: &mut Faults) -> Option<ReviewSpec> {
    const WHEN: &str = "name flags of the pipeline, such as [\"needs_review\"]";
    let object = field.object(&REVIEW, faults);
    if !object.is_present() {
        return None;
    }
    let (uri, when) = (object.field("uri"), object.field("when"));
    const EXAMPLE: &str = "s3://lake/review/2026-11-23/";
    let location = if uri.required(&format!("write a location such as {EXAMPLE:?}"), faults) { uri.uri(EXAMPLE, faults) } else { None };
    let names = if when.required(WHEN, faults) { when.texts(faults) } else { None };
    if names.as_ref().is_some_and(Vec::is_empty) {
        faults.add(&when, "empty", "without a flag no record would be written", WHEN);
    }
    Some(ReviewSpec { uri: location?.as_prefix(), when: names? })
}
fn include_input(field: &Field<'_>, faults: &mut Faults) -> IncludeInput {
    match field.value() {
        None | Some(Value::Bool(false)) => IncludeInput::None,
        Some(Value::Bool(true)) => IncludeInput::All,
        Some(Value::Array(_)) => IncludeInput::Columns(field.texts(faults).unwrap_or_default()),
        Some(found) => {
            let hint = match found {
                Value::String(name) => format!("write [{name:?}] for one column, or true for all"),
                _ => "write true, false, or [\"id\", \"amount\"]".to_owned(),
            };
            faults.wrong_type(field, "true, false or a list of column names", &hint);
            IncludeInput::None
        }
    }
}

fn execution(field: &Field<'_>, providers: &[String], faults: &mut Faults) -> ExecutionSpec {
    let object = field.object(&EXECUTION, faults);
    let default = ExecutionSpec::default();
    let batch_size = object.field("batch_size");
    let batch_size = match batch_size.value() {
        Some(Value::String(auto)) if auto == "auto" => None,
        Some(Value::String(_)) => {
            faults.add(&batch_size, "wrong_type", "\"auto\" or a number is wanted", "write \"auto\", or a whole number from 1 to 65536");
            None
        }
        _ => batch_size.integer(1..=65_536, faults).map(|n| n as u32),
    };
    let named = object.field("providers");
    let chosen = named.texts(faults).unwrap_or_default();
    let known: Vec<&str> = providers.iter().map(String::as_str).collect();
    for (at, provider) in chosen.iter().enumerate() {
        let item = named.child(&at.to_string());
        if !known.contains(&provider.as_str()) {
            let everyday = ["gpu", "nvidia"].contains(&provider.to_lowercase().as_str());
            let hint = if everyday { "write \"cuda\" for an NVIDIA GPU".to_owned() } else { did_you_mean(provider, &known) };
            faults.add(&item, "unknown_value", format!("{provider:?} is none of {}", known.join(", ")), hint);
        } else if chosen[..at].contains(provider) {
            faults.add(&item, "repeated", format!("{provider:?} stands twice"), "name each provider once, in order of preference");
        }
    }
    ExecutionSpec {
        batch_size,
        chunk_records: object.field("chunk_records").integer(1..=i64::MAX, faults).map(|n| n as u64),
        priority: object.field("priority").integer(-100..=100, faults).unwrap_or_default() as i32,
        max_parallel_chunks: object.field("max_parallel_chunks").integer(1..=100_000, faults).map(|n| n as u32),
        max_attempts: object.field("max_attempts").integer(1..=100, faults).map_or(default.max_attempts, |n| n as u32),
        deadline_seconds: object.field("deadline").seconds(faults),
        providers: chosen,
    }
}

fn budget(field: &Field<'_>, faults: &mut Faults) -> Option<Budget> {
    const HINT: &str = "write an amount in the currency of the service's prices, such as 5.0";
    let object = field.object(&BUDGET, faults);
    let max_cost = object.field("max_cost");
    if !object.is_present() || !max_cost.required(HINT, faults) {
        return None;
    }
    let amount = max_cost.number(faults)?;
    if amount <= 0.0 {
        faults.add(&max_cost, "out_of_range", format!("{amount} buys nothing"), HINT);
        return None;
    }
    Some(Budget { max_cost: amount })
}

/// Faults that show only once the pipeline is known: a review queue of flags that there are not.
pub(super) fn unknown_flags(spec: &JobSpec, pipeline: &Pipeline) -> Vec<Fault> {
    let known: Vec<&str> = pipeline.flags.keys().map(String::as_str).collect();
    let when = spec.output.review.iter().flat_map(|review| review.when.iter().enumerate());
    let unknown = when.filter(|(_, name)| !known.contains(&name.as_str()));
    let fault = |(at, name): (usize, &String)| {
        let hint = if known.is_empty() { "define it in pipeline.flags".to_owned() } else { did_you_mean(name, &known) };
        Fault::new(format!("/output/review/when/{at}"), "unknown_flag", format!("the pipeline has no flag {name:?}")).hint(hint)
    };
    unknown.map(fault).collect()
}

/// Faults that show only once the pipeline is known: columns of one name in the output.
pub(super) fn collisions(spec: &JobSpec, pipeline: &Pipeline) -> Vec<Fault> {
    let output = &spec.output;
    let predictions: Vec<String> =
        pipeline.prediction_columns().into_iter().map(|name| format!("{}{name}", output.prediction_prefix)).collect();
    let mut taken: Vec<String> = vec!["_source".to_owned(), "_position".to_owned()];
    match &output.include_input {
        IncludeInput::None => {}
        IncludeInput::Columns(columns) => taken.extend(columns.iter().cloned()),
        IncludeInput::All => {
            taken.extend(pipeline.features.iter().flatten().cloned());
            if pipeline.features.is_none() {
                let inputs = pipeline.signature.inputs.iter();
                taken.extend(inputs.map(|input| pipeline.columns.get(&input.name).unwrap_or(&input.name).clone()));
            }
        }
    }
    let mut faults = Vec::new();
    for (at, name) in predictions.iter().enumerate() {
        if taken.contains(name) || predictions[..at].contains(name) {
            let detail = format!("the output would have two columns named {name:?}: a prediction's and another");
            faults.push(
                Fault::new("/output/prediction_prefix", "column_collision", detail)
                    .hint("set output.prediction_prefix, for example to \"predicted_\""),
            );
        }
    }
    let mut seen = std::collections::BTreeSet::new();
    if let IncludeInput::Columns(columns) = &output.include_input {
        for name in columns {
            if !seen.insert(name) || name == "_source" || name == "_position" {
                let detail = format!("the column {name:?} would stand twice in the output");
                faults.push(
                    Fault::new("/output/include_input", "column_collision", detail)
                        .hint("name each column once; _source and _position are always there"),
                );
            }
        }
    }
    faults
}
