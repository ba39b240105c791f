//! `nightshift models register`, `list`, `get` and `alias`: the models that a running service knows by name.

use serde_json::{Value, json};

use super::{
    client::Client,
    show,
    stop::{Outcome, Stop},
};
use crate::{
    config::{Form, ModelAlias, ModelGet, ModelList, ModelRegister, Talk},
    domain::registry::{Name, Which},
};

pub(super) fn register(settings: &ModelRegister) -> Outcome {
    super::block_on(async move {
        let body = json!({"name": settings.name, "uri": settings.location});
        let client = client(&settings.talk)?;
        let version = client.send(client.post("/v1/models", &[])?.body(&body)).await?;
        shown(&version, settings.talk.output)
    })
}

pub(super) fn list(settings: &ModelList) -> Outcome {
    super::block_on(async move {
        let client = client(&settings.talk)?;
        let page = super::jobs::pages(&client, "/v1/models", Vec::new(), &settings.extent, 200).await?;
        if settings.talk.output == Form::Json {
            return show::print_json(&page);
        }
        let rows =
            super::jobs::items(&page).map(|model| vec![show::cell(&model["name"]), model["newest_version"].to_string(), aliases(model)]);
        show::print(&show::columns(&["MODEL", "NEWEST", "ALIASES"], rows))?;
        super::jobs::more(&page);
        Ok(())
    })
}

pub(super) fn get(settings: &ModelGet) -> Outcome {
    super::block_on(async move {
        let client = client(&settings.talk)?;
        let (name, version) = match settings.model.split_once('@') {
            Some((name, version)) => (name, Some(version)),
            None => (settings.model.as_str(), None),
        };
        let name = of_path(name)?;
        if let Some(version) = version {
            let wrong = || Stop::usage(format!("{version:?} is neither a version nor an alias"));
            Which::parse(version).ok_or_else(wrong)?;
            let found = client.send(client.get(&format!("/v1/models/{name}/versions/{version}"), &[])?).await?;
            return shown(&found, settings.talk.output);
        }
        let page = super::jobs::pages(&client, &format!("/v1/models/{name}"), Vec::new(), &settings.extent, 200).await?;
        if settings.talk.output == Form::Json {
            return show::print_json(&page);
        }
        let rows = super::jobs::items(&page).map(|version| {
            let texts = version["aliases"].as_array().into_iter().flatten().map(show::cell).collect::<Vec<_>>();
            let digest: String = show::cell(&version["digest"]).chars().take(12).collect();
            let created: String = show::cell(&version["created_at"]).chars().take(19).collect();
            vec![
                version["version"].to_string(),
                texts.join(" "),
                show::cell(&version["pipeline"]["task"]),
                digest,
                created,
                show::cell(&version["uri"]),
            ]
        });
        show::print(&show::columns(&["VERSION", "ALIASES", "TASK", "DIGEST", "REGISTERED (UTC)", "LOCATION"], rows))?;
        super::jobs::more(&page);
        Ok(())
    })
}

pub(super) fn alias(settings: &ModelAlias) -> Outcome {
    super::block_on(async move {
        let client = client(&settings.talk)?;
        let (name, alias) = (of_path(&settings.name)?, of_path(&settings.alias)?);
        let path = format!("/v1/models/{name}/aliases/{alias}");
        match settings.version {
            Some(version) => {
                let found = client.send(client.put(&path)?.body(&json!({"version": version}))).await?;
                shown(&found, settings.talk.output)
            }
            None => {
                client.send(client.delete(&path)?).await?;
                match settings.talk.output {
                    Form::Json => show::print_json(&json!({"name": settings.name, "alias": settings.alias, "version": null})),
                    Form::Table => show::print(&format!("{alias} of {name} is gone")),
                }
            }
        }
    })
}

fn client(talk: &Talk) -> Result<Client, Stop> {
    Client::new(&talk.api, talk.output)
}

/// A name becomes a part of a path: nothing else may.
fn of_path(text: &str) -> Result<Name, Stop> {
    Name::parse(text).ok_or_else(|| Stop::usage(format!("{text:?} is no name: letters, digits, dots, dashes and underscores")))
}

fn aliases(model: &Value) -> String {
    let aliases = model["aliases"].as_array().into_iter().flatten();
    aliases.map(|alias| format!("{}={}", show::cell(&alias["alias"]), alias["version"])).collect::<Vec<_>>().join(" ")
}

fn shown(version: &Value, form: Form) -> Outcome {
    if form == Form::Json {
        return show::print_json(version);
    }
    let pointing = version["aliases"].as_array().into_iter().flatten().map(show::cell).collect::<Vec<_>>().join(" ");
    let facts = [
        ("model", format!("{}@{}", show::cell(&version["name"]), version["version"])),
        ("aliases", pointing),
        ("location", show::cell(&version["uri"])),
        ("file", show::cell(&version["file"])),
        ("digest", show::cell(&version["digest"])),
        ("bytes", version["bytes"].to_string()),
        ("task", show::cell(&version["pipeline"]["task"])),
        ("registered", show::cell(&version["created_at"])),
    ];
    let mut text = show::pairs(facts.map(|(name, value)| (name.to_owned(), value)));
    for (head, field) in [("INPUT", "inputs"), ("OUTPUT", "outputs")] {
        let values = version[field].as_array().into_iter().flatten();
        let rows = values.map(|value| vec![show::cell(&value["name"]), show::cell(&value["dtype"]), show::cell(&value["shape"])]);
        text += &format!("\n{}", show::columns(&[head, "TYPE", "SHAPE"], rows));
    }
    show::print(&text)
}
