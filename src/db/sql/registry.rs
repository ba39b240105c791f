//! Models by name, their versions, their aliases.

use super::{
    Tx,
    driver::{Db, Row, sql},
    rows::document,
};
use crate::{
    db::{AliasMoved, Error, NewVersion, Result},
    domain::{
        Timestamp,
        registry::{ModelEntry, ModelVersion, Name, Which},
    },
};

const VERSION: &str = "name, version, model, signature, pipeline, created_at";

/// Makes the next version, unless one of the name has the same digest: that one is where it was found last from now on. Says whether it
/// is new.
pub(super) async fn register(tx: &mut Tx<'_>, new: &NewVersion) -> Result<(ModelVersion, bool)> {
    tx.db.register_models_alone().await?;
    let known: Option<i64> = sql("SELECT version FROM model_version WHERE name = ? AND digest = ?")
        .bind(new.name.as_str())
        .bind(&new.model.digest)
        .scalar_or_none(&mut tx.db)
        .await?;
    let version = match known {
        Some(version) => {
            sql("UPDATE model_version SET model = ? WHERE name = ? AND version = ?")
                .bind(document(&new.model))
                .bind(new.name.as_str())
                .bind(version)
                .execute(&mut tx.db)
                .await?;
            version
        }
        None => {
            let next = "SELECT CAST(COALESCE(MAX(version), 0) + 1 AS BIGINT) FROM model_version WHERE name = ?";
            let version: i64 = sql(next).bind(new.name.as_str()).scalar(&mut tx.db).await?;
            sql("INSERT INTO model_version (name, version, digest, model, signature, pipeline, created_at) VALUES (?, ?, ?, ?, ?, ?, ?)")
                .bind(new.name.as_str())
                .bind(version)
                .bind(&new.model.digest)
                .bind(document(&new.model))
                .bind(document(&new.signature))
                .bind(document(&new.pipeline))
                .bind(tx.now)
                .execute(&mut tx.db)
                .await?;
            version
        }
    };
    let found = find(&mut tx.db, &new.name, &Which::Version(version as u64)).await?;
    let gone = || Error::Damaged { table: "model_version", id: new.name.to_string(), what: "it is gone".to_owned() };
    Ok((found.ok_or_else(gone)?, known.is_none()))
}

pub(super) async fn find(db: &mut Db<'_>, name: &Name, which: &Which) -> Result<Option<ModelVersion>> {
    let query = match which {
        Which::Version(version) => sql(format!("SELECT {VERSION} FROM model_version WHERE name = ? AND version = ?"))
            .bind(name.as_str())
            .bind(i64::try_from(*version).unwrap_or(i64::MAX)),
        Which::Alias(alias) => sql(format!(
            "SELECT {VERSION} FROM model_version WHERE name = ? AND version = (SELECT version FROM model_alias WHERE name = ? AND alias = ?)"
        ))
        .bind(name.as_str())
        .bind(name.as_str())
        .bind(alias.as_str()),
        Which::Newest => {
            sql(format!("SELECT {VERSION} FROM model_version WHERE name = ? ORDER BY version DESC LIMIT 1")).bind(name.as_str())
        }
    };
    let Some(row) = query.row(db).await? else { return Ok(None) };
    let mut version = version(&row)?;
    version.aliases = aliases(db, name).await?.into_iter().filter(|(_, of)| *of == version.version).map(|(alias, _)| alias).collect();
    Ok(Some(version))
}

/// Versions of a model, newest first.
pub(super) async fn versions(db: &mut Db<'_>, name: &Name, before: Option<u64>, limit: u32) -> Result<Vec<ModelVersion>> {
    let rows = sql(format!("SELECT {VERSION} FROM model_version WHERE name = ? AND version < ? ORDER BY version DESC LIMIT ?"))
        .bind(name.as_str())
        .bind(before.and_then(|before| i64::try_from(before).ok()).unwrap_or(i64::MAX))
        .bind(limit)
        .rows(db)
        .await?;
    let aliases = aliases(db, name).await?;
    let mut versions = rows.iter().map(version).collect::<Result<Vec<_>>>()?;
    for version in &mut versions {
        version.aliases = aliases.iter().filter(|(_, of)| *of == version.version).map(|(alias, _)| alias.clone()).collect();
    }
    Ok(versions)
}

/// Models by name.
pub(super) async fn list(db: &mut Db<'_>, after: Option<&Name>, limit: u32) -> Result<Vec<ModelEntry>> {
    let found: Vec<(String, i64)> =
        sql("SELECT name, CAST(MAX(version) AS BIGINT) FROM model_version WHERE name > ? GROUP BY name ORDER BY name LIMIT ?")
            .bind(after.map_or("", Name::as_str))
            .bind(limit)
            .all(db)
            .await?;
    let mut entries = Vec::with_capacity(found.len());
    for (text, versions) in found {
        let name = parsed(&text)?;
        let aliases = aliases(db, &name).await?;
        entries.push(ModelEntry { name, versions: versions as u64, aliases });
    }
    Ok(entries)
}

pub(super) async fn aliases(db: &mut Db<'_>, name: &Name) -> Result<Vec<(Name, u64)>> {
    let found: Vec<(String, i64)> =
        sql("SELECT alias, version FROM model_alias WHERE name = ? ORDER BY alias").bind(name.as_str()).all(db).await?;
    found.into_iter().map(|(alias, version)| Ok((parsed(&alias)?, version as u64))).collect()
}

pub(super) async fn move_alias(tx: &mut Tx<'_>, name: &Name, alias: &Name, version: u64) -> Result<AliasMoved> {
    let Some(newest) = find(&mut tx.db, name, &Which::Newest).await? else { return Ok(AliasMoved::NoModel) };
    if version == 0 || version > newest.version {
        return Ok(AliasMoved::NoVersion { newest: newest.version });
    }
    sql("INSERT INTO model_alias (name, alias, version, moved_at) VALUES (?, ?, ?, ?) \
         ON CONFLICT (name, alias) DO UPDATE SET version = excluded.version, moved_at = excluded.moved_at")
    .bind(name.as_str())
    .bind(alias.as_str())
    .bind(version as i64)
    .bind(tx.now)
    .execute(&mut tx.db)
    .await?;
    Ok(AliasMoved::Done)
}

pub(super) async fn remove_alias(tx: &mut Tx<'_>, name: &Name, alias: &Name) -> Result<bool> {
    let removed =
        sql("DELETE FROM model_alias WHERE name = ? AND alias = ?").bind(name.as_str()).bind(alias.as_str()).execute(&mut tx.db).await?;
    Ok(removed > 0)
}

fn parsed(text: &str) -> Result<Name> {
    let damaged = || Error::Damaged { table: "model_version", id: text.to_owned(), what: "its name is none".to_owned() };
    Name::parse(text).ok_or_else(damaged)
}

/// A version without its aliases.
fn version(row: &Row) -> Result<ModelVersion> {
    let text = |column: &str| row.get::<String>(column).map_err(Error::Unavailable);
    let name = text("name")?;
    let damaged = |e: serde_json::Error| Error::Damaged { table: "model_version", id: name.clone(), what: e.to_string() };
    Ok(ModelVersion {
        name: parsed(&name)?,
        version: row.get::<i64>("version").map_err(Error::Unavailable)? as u64,
        model: serde_json::from_str(&text("model")?).map_err(damaged)?,
        signature: serde_json::from_str(&text("signature")?).map_err(damaged)?,
        pipeline: serde_json::from_str(&text("pipeline")?).map_err(damaged)?,
        created_at: Timestamp(row.get("created_at").map_err(Error::Unavailable)?),
        aliases: Vec::new(),
    })
}
