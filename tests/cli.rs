//! The command line, as its users meet it.

mod support;

use std::{
    fs::File,
    io::{Read, Write},
    os::unix::process::CommandExt,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use rustix::{
    process::{Pid, Signal},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
};
use serde_json::{Value, json};
use support::{
    Endpoint, S3Server, Service, ServiceOptions,
    command::{Said, nightshift},
};

const PATIENCE: Duration = Duration::from_secs(60);

/// A store with a model and 2,032 customers, and a service.
async fn world() -> (S3Server, Service) {
    let s3 = S3Server::start().await;
    s3.create_bucket("lake");
    s3.put_fixture("models/churn-lightgbm", "lake", "model/");
    s3.put_fixture("data/churn-encoded/csv", "lake", "in/");
    // Runs until it is stopped.
    s3.put("lake", "slow/x.onnx", &support::fixture("models/broken/endless-loop.onnx"));
    s3.put("lake", "slow-in/x.jsonl", b"{\"x\": [1, 2, 3, 4]}\n");
    let service = Service::start(&s3, ServiceOptions::default()).await;
    (s3, service)
}

fn run(service: &Service, args: &[&str]) -> Said {
    Said::of(nightshift(None, Some(service)).args(args).stdin(Stdio::null()).output().expect("it runs"))
}

fn ok(service: &Service, args: &[&str]) -> Said {
    let said = run(service, args);
    assert_eq!(said.code, 0, "{args:?}: {said:?}");
    said
}

#[track_caller]
fn assert_words(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "{word:?} is not in\n{text}");
    }
}

#[tokio::test]
async fn a_job_is_submitted_followed_listed_and_read_from_the_command_line() {
    let (s3, service) = world().await;
    s3.put("lake", "in/z.csv", b"tenure,seniorcitizen,totalcharges,monthlycharges\nx,0,1,1\ny,0,1,1\nz\x1b[2J,0,1,1\n");
    let flags = [
        "submit",
        "--model",
        "s3://lake/model/",
        "--input",
        "s3://lake/in/",
        "--output",
        "s3://lake/out/",
        "--name",
        "churn",
        "--label",
        "team=growth",
        "--label",
        "run=1",
        "--format",
        "csv",
        "--include-input",
        "customerid",
        "--include",
        "**/*.csv",
        "--chunk-records",
        "300",
        "--priority",
        "-1",
        "--watch",
    ];
    let said = ok(&service, &flags);
    // Not on a terminal: a line for each change on standard error, and on standard output the report alone.
    let id = said.err.lines().next().expect("the id").to_owned();
    assert!(id.starts_with("job_"), "{said:?}");
    assert_words(&said.err, &["completed    100 %  10 of 10 chunks  2035 records"]);
    assert!(!said.err.contains('\r') && !said.err.contains('\x1b'), "{said:?}");
    assert_words(
        &said.out,
        &[&id, "completed (100 %)", "run=1 team=growth", "2032 predictions, 3 errors", "records/s on cpu", "s3://lake/out/ (csv)"],
    );
    let job = service.job(&id).await;
    assert_eq!(
        (&job["name"], &job["execution"]["priority"], &job["output"]["include_input"]),
        (&json!("churn"), &json!(-1), &json!(["customerid"]))
    );

    // Jobs.
    let listed = ok(&service, &["jobs", "list", "--state", "completed", "--label", "team=growth"]);
    assert_words(&listed.out, &["JOB", &id, "completed  100 %  2032", "churn", "run=1 team=growth"]);
    assert!(!ok(&service, &["jobs", "list", "--label", "team=other"]).out.contains(&id));
    assert_eq!(ok(&service, &["jobs", "list", "--output", "json"]).json()["items"][0]["id"], id.as_str());
    assert_words(&ok(&service, &["jobs", "get", &id]).out, &["completed (100 %)", "10 of 10 done"]);
    // What a program gets is what the API says.
    let (_, api) = service.get(&format!("/v1/jobs/{id}")).await;
    assert_eq!(ok(&service, &["jobs", "get", &id, "--output", "json"]).json(), api);
    assert_eq!(ok(&service, &["jobs", "watch", &id, "--output", "json"]).json(), api);

    // Error rows: a page, all, and data that would move a terminal's cursor.
    let errors = ok(&service, &["jobs", "errors", &id]);
    assert_words(&errors.out, &["SOURCE", "in/z.csv  49", "featurize", "invalid_number", "\\u{1b}[2J"]);
    assert!(!errors.out.contains('\x1b'));
    let two = ok(&service, &["jobs", "errors", &id, "--limit", "2"]);
    assert_eq!((two.out.lines().count(), two.err.as_str()), (3, "There are more: --all shows them.\n"));
    let page = ok(&service, &["jobs", "errors", &id, "--limit", "2", "--output", "json"]).json();
    assert_eq!((page["items"].as_array().unwrap().len(), page["next_cursor"].is_string()), (2, true));
    let all = ok(&service, &["jobs", "errors", &id, "--all", "--output", "json"]).json();
    assert_eq!((all["items"].as_array().unwrap().len(), &all["next_cursor"]), (3, &Value::Null));

    // Results: where they are, and the bytes themselves.
    let results = ok(&service, &["jobs", "results", &id]);
    assert_words(
        &results.out,
        &["PART", "s3://lake/out/part-000000-", "X-Amz-Signature=", &format!("manifest: {}", service.url("/v1/jobs/"))],
    );
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("results");
    let fetched = ok(&service, &["jobs", "results", &id, "--download", target.to_str().unwrap(), "--output", "json"]).json();
    let parts: Vec<String> = s3.keys("lake", "out/part-");
    assert_eq!(fetched["files"].as_array().unwrap().len(), parts.len() + 1);
    for part in &parts {
        assert_eq!(std::fs::read(target.join(part.strip_prefix("out/").unwrap())).unwrap(), s3.get("lake", part));
    }
    assert_eq!(std::fs::read(target.join("_manifest.json")).unwrap(), s3.get("lake", "out/_manifest.json"));
    let mut changed = s3.get("lake", &parts[1]);
    changed[100] ^= 1;
    s3.put("lake", &parts[1], &changed);
    let target = folder.path().join("again");
    let said = run(&service, &["jobs", "results", &id, "--download", target.to_str().unwrap()]);
    assert_eq!(said.code, 1);
    assert_words(&said.err, &[parts[1].strip_prefix("out/").unwrap(), "its SHA-256 is", "try again"]);
    let names: Vec<_> = std::fs::read_dir(&target).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(names, [parts[0].strip_prefix("out/").unwrap()], "what is not whole and right gets no name");

    // More jobs than a page.
    for n in 0..3 {
        let output = format!("s3://lake/more/{n}/");
        ok(&service, &["submit", "--model", "s3://lake/model/", "--input", "s3://lake/in/", "--output", &output, "--output", "json"])
            .json();
    }
    assert_eq!(ok(&service, &["jobs", "list", "--limit", "2", "--output", "json"]).json()["items"].as_array().unwrap().len(), 2);
    assert_eq!(ok(&service, &["jobs", "list", "--all", "--output", "json"]).json()["items"].as_array().unwrap().len(), 4);
}

#[tokio::test]
async fn a_definition_comes_from_a_file_or_standard_input_and_flags_win() {
    let (_s3, service) = world().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("job.json");
    let definition =
        json!({"name": "from the file", "model": "s3://lake/model/", "input": "s3://lake/in/", "output": "s3://lake/out/file/"});
    std::fs::write(&file, definition.to_string()).unwrap();
    let job = ok(&service, &["submit", file.to_str().unwrap(), "--output", "json"]).json();
    assert_eq!((&job["name"], &job["output"]["uri"]), (&json!("from the file"), &json!("s3://lake/out/file/")));
    let job =
        ok(&service, &["submit", file.to_str().unwrap(), "--output", "s3://lake/out/flag/", "--name", "from a flag", "--output", "json"])
            .json();
    assert_eq!((&job["name"], &job["output"]["uri"]), (&json!("from a flag"), &json!("s3://lake/out/flag/")));
    let mut piped = nightshift(None, Some(&service));
    let mut child =
        piped.args(["submit", "-", "--output", "s3://lake/out/stdin/"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(definition.to_string().as_bytes()).unwrap();
    let said = Said::of(child.wait_with_output().unwrap());
    assert_eq!(said.code, 0, "{said:?}");
    assert_words(&said.out, &["from the file", "s3://lake/out/stdin/"]);
}

#[tokio::test]
async fn what_is_wrong_is_said_in_words_with_an_exit_code() {
    let (s3, service) = world().await;
    let submit = |more: &[&str]| {
        let args = [&["submit", "--model", "s3://lake/model/", "--input", "s3://lake/in/", "--output", "s3://lake/out/"], more].concat();
        run(&service, &args)
    };
    // Faults of the definition, each with pointer, detail and hint.
    let said = submit(&["--format", "parqet", "--set", "pipeline.taks=raw"]);
    assert_eq!(said.code, 1);
    let wanted = ["nightshift: The request has faults\n", "\n  /output/format: ", "parqet", "did you mean", "\n  /pipeline/taks: "];
    assert_words(&said.err, &wanted);
    assert_eq!(said.out, "");
    let said = submit(&["--format", "parqet", "--output", "json"]);
    assert_eq!((said.code, &said.json()["errors"][0]["pointer"]), (1, &json!("/output/format")));
    let said = submit(&["--set", "model.uri=s3://nowhere/"]);
    assert_words(&said.err, &["/model: ", "nowhere"]);

    // The command line itself.
    for (args, words) in [
        (&["submit", "--model", "s3://lake/model/"][..], &["--input", "--output"][..]),
        (&["submit", "/nowhere/job.json"], &["/nowhere/job.json cannot be read"]),
        (&["submit", "--model", "a", "--input", "b", "--output", "scores"], &["write a location such as s3://lake/scores/"]),
        (&["jobs", "get", "../../etc"], &["is no job's id", "nightshift jobs list"]),
        (&["jobs", "list", "--label", "team"], &["write KEY=VALUE"]),
        (&["jobs", "list", "--api", "ftp://x"], &["http://127.0.0.1:8080"]),
        (&["verify", "/nowhere"], &["\"/nowhere\" is no location"]),
        (&["jbos"], &["unrecognized subcommand", "jobs"]),
    ] {
        let said = run(&service, args);
        assert_eq!(said.code, 2, "{args:?}: {said:?}");
        assert_words(&said.err, words);
    }
    let said = run(&service, &["jobs", "get", "job_019ac2f7b0f47e0f8a1b2c3d4e5f6071"]);
    assert_eq!(said.code, 1);
    assert_words(&said.err, &["There is no such thing: there is no job \"job_019ac2f7b0f47e0f8a1b2c3d4e5f6071\""]);
    let said = run(&service, &["jobs", "list", "--api", "http://127.0.0.1:9"]);
    assert_eq!(said.code, 1);
    assert_words(&said.err, &["no service answers at http://127.0.0.1:9", "nightshift serve", "NIGHTSHIFT_API"]);
    let said = run(&service, &["jobs", "list", "--api", &s3.url()]);
    assert_eq!(said.code, 1);
    assert_words(&said.err, &["is it a Nightshift service?"]);

    // A job that does not complete.
    s3.put("lake", "bad/x.csv", b"tenure\nx\n");
    let args = ["submit", "--model", "s3://lake/model/", "--input", "s3://lake/bad/", "--output", "s3://lake/bad-out/", "--watch"];
    let said = run(&service, &args);
    assert_eq!(said.code, 1);
    assert_words(&said.out, &["failed", "error"]);
    let said = submit(&["--output", "json", "--watch"]);
    assert_eq!((said.code, &said.json()["state"]), (0, &json!("completed")));
    let said = submit(&[]);
    assert_eq!(said.code, 1, "{said:?}");
    assert_words(&said.err, &["s3://lake/out/", "choose another prefix"]);
}

const ENDLESS: [&str; 7] =
    ["submit", "--model", "s3://lake/slow/x.onnx", "--input", "s3://lake/slow-in/", "--output", "s3://lake/slow-out/"];

#[tokio::test]
async fn an_interrupted_watch_leaves_the_job_running_and_says_how_to_come_back() {
    let (_s3, service) = world().await;
    let id = ok(&service, &[&ENDLESS[..], &["--output", "json"]].concat()).json()["id"].as_str().unwrap().to_owned();
    service.until(&id, |job| job["state"] == "in_progress").await;
    let mut watch = nightshift(None, Some(&service));
    let watch = watch.args(["jobs", "watch", &id]).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).spawn().unwrap();
    // It has subscribed to the signal once it has said where the job stands.
    let mut watch = watch;
    let mut said = String::new();
    let mut errors = watch.stderr.take().unwrap();
    let mut byte = [0];
    while !said.contains("in_progress") && errors.read(&mut byte).unwrap() == 1 {
        said.push(char::from(byte[0]));
    }
    rustix::process::kill_process(Pid::from_child(&watch), Signal::INT).unwrap();
    errors.read_to_string(&mut said).unwrap();
    assert_eq!(watch.wait().unwrap().code(), Some(130), "{said}");
    assert_words(&said, &[&format!("{id} goes on. Come back to it with: nightshift jobs watch {id}")]);
    assert_eq!(service.job(&id).await["state"], "in_progress");

    // Cancelled by another command, the job ends the watch that follows it.
    let mut watch = nightshift(None, Some(&service));
    let watch = watch.args(["jobs", "watch", &id]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    assert_words(&ok(&service, &["jobs", "cancel", &id]).out, &["cancelling"]);
    let said = Said::of(watch.wait_with_output().unwrap());
    assert_eq!(said.code, 1, "{said:?}");
    assert_words(&said.out, &["cancelled"]);
    let said = run(&service, &["jobs", "cancel", &id]);
    assert_eq!(said.code, 1);
    assert_words(&said.err, &["is cancelled and cannot be cancelled"]);
}

#[tokio::test]
async fn a_terminal_gets_a_bar_with_a_rate() {
    let (_s3, service) = world().await;
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&terminal).unwrap();
    unlockpt(&terminal).unwrap();
    let name = ptsname(&terminal, Vec::new()).unwrap().into_string().unwrap();
    let size = rustix::termios::Winsize { ws_row: 24, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(&terminal, size).unwrap();
    let side = File::options().read(true).write(true).open(name).unwrap();
    let mut command = nightshift(None, Some(&service));
    command.args([&ENDLESS[..], &["--watch"]].concat()).env("TERM", "xterm-256color").stdout(Stdio::piped()).stderr(side);
    let child = command.spawn().unwrap();
    drop(command);
    // The job never ends by itself: it is cancelled once the bar has been seen.
    let mut master = File::from(terminal);
    let mut seen = String::new();
    let started = Instant::now();
    let mut block = [0; 4096];
    let mut cancelled = false;
    while let Ok(count) = master.read(&mut block) {
        seen.push_str(&String::from_utf8_lossy(&block[..count]));
        if count == 0 || started.elapsed() > PATIENCE {
            break;
        }
        if !cancelled && seen.contains("in_progress") {
            cancelled = true;
            let id = seen.lines().next().unwrap().trim().to_owned();
            ok(&service, &["jobs", "cancel", &id]);
        }
    }
    let said = Said::of(child.wait_with_output().unwrap());
    assert_eq!(said.code, 1, "{seen}");
    assert_words(&seen, &["job_", "in_progress", "░", "0 %  0 records", "\u{1b}["]);
    assert_words(&said.out, &["cancelled"]);
}

#[test]
fn every_setting_is_shown_with_its_origin_and_no_secret() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("nightshift.toml");
    std::fs::write(&file, "chunk_slots = 7\ndata_dir = \"/var/lib/ns\"\nlog = \"debug\"\n").unwrap();
    let show = |more: &[&str]| {
        let mut command = nightshift(None, None);
        command.args(["config", "show", "--config", file.to_str().unwrap(), "--listen", "127.0.0.1:9000"]).args(more);
        command.env("DATABASE_URL", "postgres://ns:hunter2@db/jobs").env("NIGHTSHIFT_CHUNK_BYTES", "1000").env_remove("NIGHTSHIFT_LOG");
        Said::of(command.env_remove("ORT_DYLIB_PATH").output().unwrap())
    };
    let said = show(&["--output", "json"]);
    assert_eq!(said.code, 0, "{said:?}");
    let settings = said.json();
    let setting = |key: &str| {
        let found = settings.as_array().unwrap().iter().find(|s| s["key"] == key);
        found.map(|s| (s["value"].clone(), s["origin"].clone())).unwrap_or_else(|| panic!("{key} is not among {settings:#}"))
    };
    assert_eq!(setting("listen"), (json!(["127.0.0.1:9000"]), json!({"flag": "--listen"})));
    assert_eq!(setting("chunk_bytes"), (json!(["1000"]), json!({"environment": "NIGHTSHIFT_CHUNK_BYTES"})));
    assert_eq!(setting("chunk_slots"), (json!(["7"]), json!({"file": file})));
    assert_eq!(setting("log"), (json!(["debug"]), json!({"file": file})));
    assert_eq!(setting("chunk_objects"), (json!(["1000"]), json!("default")));
    assert_eq!(setting("onnxruntime"), (json!([]), json!("default")));
    assert_eq!(setting("database_url"), (json!(["postgres://ns:(hidden)@db/jobs"]), json!({"environment": "DATABASE_URL"})));
    let said = show(&[]);
    assert_words(&said.out, &["SETTING", "listen", "127.0.0.1:9000", "flag --listen", "environment DATABASE_URL", "file ", "default"]);
    assert!(!said.out.contains("hunter2") && !show(&["--help"]).out.contains("hunter2"));

    // A file to start from is one that works.
    let said = Said::of(nightshift(None, None).args(["config", "default"]).output().unwrap());
    assert_words(&said.out, &["# Address of the API (--listen, NIGHTSHIFT_LISTEN).\n# listen = \"127.0.0.1:8080\"\n", "# chunk_slots = 3"]);
    std::fs::write(&file, said.out.replace("# chunk_slots = 3", "chunk_slots = 4")).unwrap();
    let shown: Vec<String> = show(&[]).out.split_whitespace().map(str::to_owned).collect();
    assert_words(&shown.join(" "), &["chunk_slots 4"]);
    std::fs::write(&file, "chunk_slot = 3\n").unwrap();
    let said = show(&[]);
    assert_eq!(said.code, 2);
    assert_words(&said.err, &["there is no setting \"chunk_slot\"; did you mean chunk_slots?"]);
}

#[tokio::test]
async fn the_doctor_finds_a_good_set_up_good_and_says_what_a_store_does() {
    let (s3, service) = world().await;
    let mut command = nightshift(Some(&s3), None);
    command.args(["doctor", "--check", "s3://lake/scores/", "--output", "json", "--data-dir"]).arg(service.data_dir());
    let said = Said::of(command.output().unwrap());
    assert_eq!(said.code, 0, "{said:?}");
    let checks = said.json();
    let check = |name: &str| {
        let found = checks.as_array().unwrap().iter().find(|c| c["name"].as_str().unwrap().trim() == name);
        found
            .map(|c| (c["status"].as_str().unwrap(), c["detail"].as_str().unwrap()))
            .unwrap_or_else(|| panic!("{name} is not among {checks:#}"))
    };
    assert!(check("library").1.starts_with("ONNX Runtime 1."), "{checks:#}");
    assert_eq!(check("provider cpu"), ("ok", "can be had"));
    // The library here is the one for CPUs: the runtime's own words.
    assert_words(check("provider cuda").1, &["CUDA execution provider is not enabled in this build"]);
    assert_words(check("database").1, &["0 jobs, up to date, in use by a service"]);
    assert_words(check("data folder").1, &["GiB free"]);
    assert_eq!(check("store s3://lake/scores/"), ("ok", "list, put, get and delete work"));
    // This server looks at the condition of a PUT, and takes that of a GET without looking; a file system looks at both (below).
    assert_eq!(check("If-None-Match: * on PUT"), ("ok", "honoured"));
    assert!(check("If-Match on GET").1.starts_with("ignored"), "{checks:#}");
    assert_eq!(check("clock").0, "ok");
    assert_eq!(s3.keys("lake", "scores/"), Vec::<String>::new(), "nothing stays behind");

    let folder = tempfile::tempdir().unwrap();
    let said = Said::of(nightshift(Some(&s3), None).args(["doctor", "--check", "."]).current_dir(&folder).output().unwrap());
    assert_eq!(said.code, 0, "{said:?}");
    assert_words(&said.out, &["CHECK", "nightshift.db is not there yet", "store file:///"]);
    let conditions: Vec<&str> = said.out.lines().filter(|line| line.starts_with("  If-")).collect();
    assert!(conditions.len() == 2 && conditions.iter().all(|line| line.ends_with("honoured")), "{conditions:?}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn the_doctor_finds_everything_that_is_broken_at_once() {
    let (s3, _service) = world().await;
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(at("nightshift.db"), "this is no database, though it is long enough to be looked at as one").unwrap();
    std::fs::write(at("a-file"), "").unwrap();
    let doctor = |args: &[&str]| {
        let mut command = nightshift(Some(&s3), None);
        Said::of(command.arg("doctor").args(args).output().unwrap())
    };
    let (root, database) = (at("missing"), format!("sqlite://{}", at("nightshift.db")));
    let below_a_file = at("a-file/data");
    let said = doctor(&[
        "--providers",
        "cuda,cpu",
        "--database-url",
        &database,
        "--data-dir",
        &below_a_file,
        "--file-root",
        &root,
        "--check",
        "s3://nowhere/x/",
    ]);
    assert_eq!(said.code, 1, "{said:?}");
    let line = |name: &str| said.out.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}: {said:?}"));
    assert_words(line("provider cuda"), &["FAILURE", "--providers names it, and it cannot be had: CUDA execution provider is not enabled"]);
    assert_words(line("database"), &["FAILURE", "cannot be opened", "not a database"]);
    assert_words(line("data folder"), &["FAILURE"]);
    assert_words(line("file root"), &["FAILURE", &root]);
    assert_words(line("store s3://nowhere/x/"), &["FAILURE", "list: ", "nowhere"]);

    // A file that is no library, and no file.
    let said = doctor(&["--onnxruntime", &at("a-file")]);
    assert_eq!(said.code, 1);
    assert_words(&said.out, &["library", "FAILURE", "cannot be used as the ONNX Runtime library", "scripts/fetch-onnxruntime"]);
    let said = doctor(&["--onnxruntime", &at("no-file")]);
    assert_words(&said.out, &["library", "FAILURE", "which is no file"]);
}

#[test]
fn every_model_is_inspected_or_refused_for_a_reason() {
    let inspect = |path: &Path, more: &[&str]| {
        let mut command = nightshift(None, None);
        Said::of(command.args(["models", "inspect"]).arg(path).args(more).output().unwrap())
    };
    let models = support::fixtures().join("models");
    let said = inspect(&models.join("churn-lightgbm"), &["--output", "json"]);
    assert_eq!(said.code, 0, "{said:?}");
    let found = said.json();
    assert_eq!(found["inputs"][0]["name"], "input");
    assert_eq!((&found["inputs"][0]["dtype"], &found["inputs"][0]["shape"][1]), (&json!("FP32"), &json!(4)));
    assert_eq!((found["digest"].as_str().map(str::len), &found["pipeline"]["labels"]), (Some(64), &json!(["stays", "leaves"])));
    let origins = &found["origins"];
    let wanted = ["nightshift.json", "nightshift.json", "graph", "default"];
    assert_eq!(["labels", "features", "classifier", "top_k"].map(|field| origins[field].as_str().unwrap()), wanted);
    let said = inspect(&models.join("churn-lightgbm"), &["--set", "top_k=2", "--set", "activation=none"]);
    assert_words(&said.out, &["INPUT", "FP32", "[?, 4]", "OUTPUT", "probabilities", "top_k", "2", "job", "nightshift.json", "graph"]);
    let said = inspect(&models.join("loan-default-pipeline"), &["--set", "task=tabular-regression"]);
    assert_eq!(said.code, 1);
    assert_words(&said.err, &["cannot be used", "/pipeline/task: ", "no_regression_output"]);
    assert_eq!(inspect(&models.join("churn-lightgbm"), &["--set", "taks=raw"]).code, 2);

    for folder in ["odd", "awkward", "broken"] {
        let mut refused = 0;
        for entry in std::fs::read_dir(models.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if !path.is_dir() && path.extension().is_none_or(|e| e != "onnx") {
                continue;
            }
            let said = inspect(&path, &["--output", "json"]);
            let found = said.json();
            match said.code {
                0 => assert!(found["inputs"].is_array() && found["origins"].is_object(), "{path:?}: {found:#}"),
                1 => {
                    refused += 1;
                    let fault = &found["errors"][0];
                    assert!(fault["code"].is_string() && fault["detail"].as_str().is_some_and(|d| d.len() > 10), "{path:?}: {found:#}");
                }
                other => panic!("{path:?}: {other} {said:?}"),
            }
        }
        assert_eq!(refused > 0, folder == "broken", "{folder}: {refused}");
    }
}

#[test]
fn completions_and_manual_pages_are_what_their_readers_can_read() {
    let run = |args: &[&str]| {
        let said = Said::of(nightshift(None, None).args(args).output().unwrap());
        assert_eq!(said.code, 0, "{args:?}: {said:?}");
        said.out
    };
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("nightshift.bash");
    std::fs::write(&script, run(&["completions", "bash"])).unwrap();
    // What bash offers after `nightshift jobs ca`.
    let line = format!(
        "set -e; source {}; COMP_WORDS=(nightshift jobs ca); COMP_CWORD=2; _nightshift nightshift ca jobs; echo \"${{COMPREPLY[@]}}\"",
        script.display()
    );
    let offered = std::process::Command::new("bash").args(["-c", &line]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&offered.stdout).trim(), "cancel", "{offered:?}");
    assert_words(&run(&["completions", "zsh"]), &["#compdef nightshift", "submit:Submit a job to a running service"]);
    assert_words(&run(&["completions", "fish"]), &["complete -c nightshift", "-a \"verify\""]);

    let pages = folder.path().join("man");
    run(&["man", "--dir", pages.to_str().unwrap()]);
    let names: Vec<String> = std::fs::read_dir(&pages).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    for name in ["nightshift.1", "nightshift-submit.1", "nightshift-jobs-list.1", "nightshift-models-inspect.1"] {
        assert!(names.iter().any(|n| n == name), "{name} is not among {names:?}");
    }
    assert!(!names.iter().any(|n| n.contains("runner")), "{names:?}");
    assert_eq!(run(&["man"]), std::fs::read_to_string(pages.join("nightshift.1")).unwrap());
    for name in &names {
        let page = std::fs::read_to_string(pages.join(name)).unwrap();
        assert_words(&page, &[".TH nightshift", ".SH NAME", ".SH SYNOPSIS"]);
        // Requests of roff stand alone: text that begins with a dot would be one.
        let known = ["TH", "SH", "SS", "TP", "RS", "RE", "br", "ie", "el", "if", "nr", "IP", "PP", "B", "I"];
        for line in page.lines().filter_map(|line| line.strip_prefix('.')) {
            assert!(known.contains(&line.split([' ', '\\']).next().unwrap()), "{name}: .{line}");
        }
    }
}
