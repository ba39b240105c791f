//! `nightshift models inspect` and `init`: what a job would find of a model, without a service.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::{
    models, parity, show,
    stop::{Outcome, Stop},
};
use crate::{
    config::{self, BucketSections, Form, Models as Subcommand},
    domain::{Dim, Fault, PipelineSpec, Uri, ValueInfo, ValueType},
    model::{self, Inspection, Limits, Models},
};

pub(super) fn run(settings: config::ModelsArgs, buckets: BucketSections) -> Outcome {
    let settings = match settings.command {
        Subcommand::Inspect(settings) => settings,
        Subcommand::Init(settings) => return init(&settings, buckets),
        Subcommand::Register(settings) => return models::register(&settings),
        Subcommand::List(settings) => return models::list(&settings),
        Subcommand::Get(settings) => return models::get(&settings),
        Subcommand::Alias(settings) => return models::alias(&settings),
    };
    let location = super::location(&settings.location)?;
    let overrides = overrides(&settings.set)?;
    let temporary = Temporary::new(settings.cache.as_deref())?;
    let cache = settings.cache.clone().unwrap_or_else(|| temporary.0.clone());
    let stores = super::stores(buckets)?;
    let models = Models::new(cache, stores, Limits { max_bytes: settings.max_model_bytes, ..Limits::default() });
    super::block_on(async {
        match models.inspect(&location, &overrides).await {
            Ok(inspection) if settings.image.is_empty() => shown(&inspection, settings.output),
            Ok(inspection) => compared(&inspection, &settings),
            Err(model::Error::Refused(faults)) => refused(&location, &faults, settings.output),
            Err(error) => Err(error.to_string().into()),
        }
    })
}

/// What pictures become; an exit code of 1 where one is too far from its reference.
fn compared(inspection: &Inspection, settings: &config::Inspect) -> Outcome {
    let seen = parity::look(&inspection.pipeline, &settings.image, settings.compare.as_deref())?;
    let beyond = parity::beyond(&seen, settings.tolerance);
    match settings.output {
        Form::Json => show::print_json(&json!({"uri": inspection.model.uri, "image": inspection.pipeline.image, "pictures": seen}))?,
        Form::Table => show::print(&parity::table(&seen))?,
    }
    match beyond {
        0 => Ok(()),
        _ => Err(format!("{beyond} of {} pictures differ by more than {} of 255", seen.len(), settings.tolerance).into()),
    }
}

/// A cache for this once; removed at the end.
struct Temporary(std::path::PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _never_made = std::fs::remove_dir_all(&self.0);
    }
}

impl Temporary {
    /// A new folder, not made where another is named.
    fn new(named: Option<&Path>) -> Result<Self, Stop> {
        let folder = std::env::temp_dir().join(format!("nightshift-inspect-{}", uuid::Uuid::now_v7().simple()));
        if named.is_none() {
            std::fs::create_dir(&folder).map_err(|e| format!("{}: {e}; name another folder with --cache", folder.display()))?;
        }
        Ok(Self(folder))
    }
}

fn init(settings: &config::Init, buckets: BucketSections) -> Outcome {
    let temporary = Temporary::new(None)?;
    let limits = Limits { max_bytes: settings.max_model_bytes, ..Limits::default() };
    let models = Models::new(temporary.0.clone(), super::stores(buckets)?, limits);
    super::block_on(async {
        match models.init(&settings.folder).await {
            Ok((file, _)) => show::print(&format!("wrote {}: every choice that was derived, to be edited\n", file.display())),
            Err(model::Error::Refused(faults)) => {
                let location = super::location(&settings.folder.display().to_string())?;
                refused(&location, &faults, Form::Table)
            }
            Err(error) => Err(error.to_string().into()),
        }
    })
}

fn overrides(set: &[(String, String)]) -> Result<PipelineSpec, Stop> {
    let fields: Map<String, Value> = set.iter().map(|(field, value)| (field.clone(), super::definition::json_or_text(value))).collect();
    serde_json::from_value(Value::Object(fields)).map_err(|e| Stop::usage(format!("--set: {e}")))
}

fn refused(location: &Uri, faults: &[Fault], form: Form) -> Outcome {
    if form == Form::Json {
        show::print_json(&json!({"uri": location, "errors": faults}))?;
        return Err(Stop::said());
    }
    let mut text = format!("{location} cannot be used");
    for fault in faults {
        let hint = fault.hint.as_ref().map(|hint| format!(" ({hint})")).unwrap_or_default();
        text += &format!("\n  {}: {}: {}{hint}", fault.pointer, fault.code, fault.detail);
    }
    Err(text.into())
}

fn shown(inspection: &Inspection, form: Form) -> Outcome {
    let Inspection { model, signature, pipeline, origins } = inspection;
    if form == Form::Json {
        return show::print_json(&json!({
            "uri": model.uri, "digest": model.digest, "file": model.file, "bytes": model.bytes,
            "inputs": signature.inputs, "outputs": signature.outputs, "pipeline": pipeline, "origins": origins,
        }));
    }
    let facts = [
        ("model", model.uri.to_string()),
        ("file", model.file.clone()),
        ("digest", model.digest.clone()),
        ("bytes", model.bytes.to_string()),
    ];
    let mut text = show::pairs(facts.map(|(name, value)| (name.to_owned(), value)));
    let values = |values: &[ValueInfo]| values.iter().map(|v| vec![v.name.clone(), kind(&v.value), shape(&v.value)]).collect::<Vec<_>>();
    text += &format!("\n{}", show::columns(&["INPUT", "TYPE", "SHAPE"], values(&signature.inputs)));
    text += &format!("\n{}", show::columns(&["OUTPUT", "TYPE", "SHAPE"], values(&signature.outputs)));
    let pipeline = serde_json::to_value(pipeline).map_err(|e| e.to_string())?;
    let fields = pipeline.as_object().into_iter().flatten().filter(|(name, _)| name.as_str() != "signature");
    let rows = fields.map(|(name, value)| {
        let value = if value.is_null() { "-".to_owned() } else { show::cell(value) };
        vec![name.clone(), value, origins.get(name).map(|origin| origin.to_string()).unwrap_or_default()]
    });
    text += &format!("\n{}", show::columns(&["PIPELINE", "VALUE", "FROM"], rows));
    show::print(&text)
}

fn kind(value: &ValueType) -> String {
    match value {
        ValueType::Tensor { dtype, .. } => dtype.name().to_owned(),
        ValueType::Sequence { element } => format!("sequence of {}", kind(element)),
        ValueType::Map { key, value } => format!("map of {} to {}", key.name(), kind(value)),
    }
}

fn shape(value: &ValueType) -> String {
    match value {
        ValueType::Tensor { shape: Some(dims), .. } => {
            let dims: Vec<String> = dims.iter().map(dim).collect();
            format!("[{}]", dims.join(", "))
        }
        ValueType::Tensor { shape: None, .. } => "any".to_owned(),
        ValueType::Sequence { element } => shape(element),
        ValueType::Map { .. } => String::new(),
    }
}

fn dim(dim: &Dim) -> String {
    match dim {
        Dim::Fixed(size) => size.to_string(),
        Dim::Dynamic(Some(name)) => name.clone(),
        Dim::Dynamic(None) => "?".to_owned(),
    }
}
