//! A runner that goes on to talk and hears nothing.

use std::{fs, os::unix::fs::PermissionsExt, time::Duration};

use super::supervisor::{Ended, RunnerOptions, Shown, Supervisor};
use crate::{
    db::conformance::new_job,
    domain::PartNames,
    objects::Options,
    runner::{featurize::ImageLimits, protocol::ChunkTask},
    tables::Connections,
    telemetry::{LogFormat, Metrics},
};

/// Says that it is ready and lives, and never reads what it is told. Its standard input is the socket.
const DEAF: &str = r#"#!/bin/sh
say() {
    printf "$(printf '\\%03o\\%03o\\000\\000' $((${#1} % 256)) $((${#1} / 256)))%s" "$1" >&0
}
say '{"type":"ready","runtime":"none"}'
while :; do
    say '{"type":"beat","loading":null,"busy":[],"progress":[],"counts":{}}'
    sleep 0.2
done
"#;

/// A chunk whose description is larger than what a socket takes ahead.
fn task(attempt: u64) -> ChunkTask {
    let new = new_job("s3://lake/out/");
    let output = &new.spec.output;
    let names = PartNames::new(0, "token", output.format, output.compression);
    let task = ChunkTask::of(&new.spec, &new.model, &new.pipeline, names, "model".into(), &[], ImageLimits::default());
    ChunkTask { attempt, chunk: "x".repeat(4 * 1024 * 1024), ..task }
}

#[tokio::test]
async fn a_runner_that_takes_no_frames_is_replaced_and_holds_nobody_up() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("runner");
    fs::write(&program, DEAF).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let options = RunnerOptions {
        program,
        library: folder.path().join("library"),
        workers: 1,
        devices: vec![0],
        device_memory_limit: None,
        memory_limit: None,
        stores: Options::default(),
        connections: Connections::default(),
        load_timeout: Duration::from_secs(60),
        batch_timeout: Duration::from_secs(60),
        idle_unload: Duration::from_secs(60),
        log_format: LogFormat::Text,
        log: "off".to_owned(),
    };
    let (supervisor, _actor) = Supervisor::start(options, Metrics::new(), Shown::No);
    let running: Vec<_> = (1..=3)
        .map(|attempt| {
            let supervisor = supervisor.clone();
            tokio::spawn(async move { supervisor.run(task(attempt)).await.ended })
        })
        .collect();
    let ends = tokio::time::timeout(Duration::from_secs(120), futures::future::join_all(running)).await;
    for ended in ends.expect("the supervisor waits for the runner") {
        assert!(matches!(ended, Ok(Ended::Stopped)), "at no cost to the chunk: {ended:?}");
    }
    tokio::time::timeout(Duration::from_secs(60), supervisor.shutdown()).await.expect("it still answers");
}
