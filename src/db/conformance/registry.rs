//! Models by name.

use super::*;
use crate::domain::registry::{Name, Which};

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn version_of(model: &str, digest: &str) -> NewVersion {
    let new = new_job("s3://lake/out/");
    NewVersion {
        name: name(model),
        model: PinnedModel { digest: digest.to_owned(), ..new.model },
        signature: new.pipeline.signature.clone(),
        pipeline: new.pipeline,
    }
}

async fn a_digest_is_one_version_of_a_name(b: Bench) {
    let register = async |model: &str, digest: &str| {
        let (version, new) = b.store.register_model(&version_of(model, digest)).await.unwrap();
        assert_eq!((version.name.as_str(), version.model.digest.as_str()), (model, digest));
        (version.version, new)
    };
    assert_eq!(register("fraud", "a").await, (1, true));
    assert_eq!(register("fraud", "b").await, (2, true));
    assert_eq!(register("fraud", "a").await, (1, false));
    assert_eq!(register("churn", "a").await, (1, true));
    let mut moved = version_of("fraud", "a");
    moved.model.uri = uri("s3://m/elsewhere/");
    let (version, new) = b.store.register_model(&moved).await.unwrap();
    assert_eq!((version.version, new, version.model.uri), (1, false, uri("s3://m/elsewhere/")), "it is where it was found last");
    let listed = b.store.registered_models(None, 10).await.unwrap();
    assert_eq!(listed.iter().map(|m| (m.name.as_str(), m.versions)).collect::<Vec<_>>(), [("churn", 1), ("fraud", 2)]);
    assert_eq!(b.store.registered_models(Some(&name("churn")), 1).await.unwrap(), listed[1..]);
}

async fn an_alias_points_at_one_version_and_moves(b: Bench) {
    let (fraud, production) = (name("fraud"), name("production"));
    assert_eq!(b.store.move_alias(&fraud, &production, 1).await.unwrap(), AliasMoved::NoModel);
    for digest in ["a", "b", "c"] {
        b.store.register_model(&version_of("fraud", digest)).await.unwrap();
    }
    assert_eq!(b.store.move_alias(&fraud, &production, 4).await.unwrap(), AliasMoved::NoVersion { newest: 3 });
    assert_eq!(b.store.move_alias(&fraud, &production, 0).await.unwrap(), AliasMoved::NoVersion { newest: 3 });
    let meant = async || {
        let found = b.store.model_version(&fraud, &Which::Alias(production.clone())).await.unwrap();
        found.map(|version| (version.version, version.aliases))
    };
    assert_eq!(meant().await, None);
    for version in [1, 3] {
        assert_eq!(b.store.move_alias(&fraud, &production, version).await.unwrap(), AliasMoved::Done);
        assert_eq!(meant().await, Some((version, vec![production.clone()])));
    }
    let versions = b.store.model_versions(&fraud, None, 10).await.unwrap();
    assert_eq!(versions.iter().map(|v| (v.version, v.aliases.len())).collect::<Vec<_>>(), [(3, 1), (2, 0), (1, 0)]);
    assert_eq!(b.store.model_versions(&fraud, Some(3), 1).await.unwrap(), versions[1..2]);
    assert_eq!(b.store.model_version(&fraud, &Which::Newest).await.unwrap().as_ref(), versions.first());
    assert_eq!(b.store.registered_models(None, 1).await.unwrap()[0].aliases, [(production.clone(), 3)]);
    assert!(b.store.remove_alias(&fraud, &production).await.unwrap());
    assert!(!b.store.remove_alias(&fraud, &production).await.unwrap());
    assert_eq!(meant().await, None);
    assert!(b.store.model_version(&fraud, &Which::Version(9)).await.unwrap().is_none());
}

async fn versions_that_are_registered_at_once_have_numbers_of_their_own(b: Bench) {
    let calls: Vec<_> = (0..12)
        .map(|n| {
            let store = b.store.clone();
            tokio::spawn(async move { store.register_model(&version_of("fraud", &format!("d{}", n % 6))).await.unwrap() })
        })
        .collect();
    let mut made = BTreeMap::new();
    for call in calls {
        let (version, new) = call.await.unwrap();
        *made.entry((version.version, version.model.digest)).or_insert(0) += i32::from(new);
    }
    assert_eq!(made.keys().map(|(version, _)| *version).collect::<Vec<_>>(), (1..=6).collect::<Vec<_>>());
    assert!(made.values().all(|new| *new == 1), "{made:?}");
}

on_both_databases! {
    a_digest_is_one_version_of_a_name,
    an_alias_points_at_one_version_and_moves,
    versions_that_are_registered_at_once_have_numbers_of_their_own,
}
