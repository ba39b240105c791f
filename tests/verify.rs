//! `nightshift verify`: a clean output is proven, and whatever is done to it is found, with words that name the place.

mod support;

use std::{collections::BTreeMap, io::Write, path::Path, process::Command};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use support::{ACCESS_KEY, Endpoint, S3Server, SECRET_KEY, Service, ServiceOptions};

const PATIENCE: std::time::Duration = std::time::Duration::from_secs(180);

/// A store with finished jobs of every kind.
struct World {
    s3: S3Server,
    service: Service,
}

impl World {
    /// 2,035 customers in three files, of whom the last three cannot be scored.
    async fn start() -> Self {
        let s3 = S3Server::start().await;
        s3.create_bucket("lake");
        s3.put_fixture("models/churn-lightgbm", "lake", "model/");
        s3.put_fixture("data/churn-encoded/csv", "lake", "in/csv/");
        s3.put_fixture("data/churn-encoded/jsonl", "lake", "in/jsonl/");
        s3.put_fixture("data/churn-encoded/parquet", "lake", "in/parquet/");
        s3.put("lake", "in/csv/z.csv", b"tenure,seniorcitizen,totalcharges,monthlycharges\nx,0,1,1\ny,0,1,1\nz,0,1,1\n");
        let service = Service::start(&s3, ServiceOptions::default()).await;
        Self { s3, service }
    }

    async fn job(&self, input: &str, output: &str, how: Value, chunk_records: Option<u64>) {
        let mut output = json!({"uri": format!("s3://lake/{output}/")}).as_object().unwrap().clone();
        output.extend(how.as_object().unwrap().clone());
        let definition = json!({
            "model": "s3://lake/model/", "input": format!("s3://lake/in/{input}/"), "output": output,
            "execution": {"chunk_records": chunk_records},
        });
        let id = self.service.submit(&definition).await;
        let job = self.service.wait(&id, PATIENCE).await;
        assert_eq!(job["state"], "completed", "{job:#}");
    }

    fn verify(&self, output: &str, more: &[&str]) -> (i32, Value) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nightshift"));
        command.args(["verify", "--output", "json"]).args(more).arg(format!("s3://lake/{output}/"));
        command.env("AWS_ENDPOINT_URL_S3", self.s3.url()).env("AWS_ALLOW_HTTP", "true").env("AWS_REGION", "us-east-1");
        command.env("AWS_ACCESS_KEY_ID", ACCESS_KEY).env("AWS_SECRET_ACCESS_KEY", SECRET_KEY).env_remove("NIGHTSHIFT_CONFIG");
        let done = command.output().expect("it runs");
        let report = serde_json::from_slice(&done.stdout);
        (done.status.code().expect("a code"), report.unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&done.stderr))))
    }

    /// A copy of a finished output that can be spoiled.
    fn copy(&self, from: &str, to: &str) -> Spoiled<'_> {
        let keys = self.s3.keys("lake", &format!("{from}/"));
        let name = |key: &str| key[from.len() + 1..].to_owned();
        let files: BTreeMap<String, Vec<u8>> = keys.iter().map(|key| (name(key), self.s3.get("lake", key))).collect();
        let manifest = serde_json::from_slice(&files["_manifest.json"]).expect("a manifest");
        Spoiled { world: self, prefix: to.to_owned(), files, manifest }
    }
}

struct Spoiled<'w> {
    world: &'w World,
    prefix: String,
    files: BTreeMap<String, Vec<u8>>,
    manifest: Value,
}

impl Spoiled<'_> {
    fn part(&self, at: usize) -> String {
        self.manifest["parts"][at]["key"].as_str().expect("a part").to_owned()
    }

    fn lines(&self, file: &str) -> Vec<String> {
        String::from_utf8(self.files[file].clone()).expect("UTF-8").lines().map(|line| format!("{line}\n")).collect()
    }

    /// Gives a file another content, and the manifest the digest, size and counts that go with it, in the part and in all.
    fn rewrite(&mut self, at: usize, file: &str, lines: &[String]) {
        let bytes = lines.concat().into_bytes();
        let sha256: String = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
        let errors = file.starts_with("errors/");
        let part = &mut self.manifest["parts"][at];
        let (count, described) = if errors { ("failed", &mut part["errors"]) } else { ("records", &mut *part) };
        described["records"] = json!(lines.len());
        described["bytes"] = json!(bytes.len());
        described["sha256"] = json!(sha256);
        part[count] = json!(lines.len());
        let parts = self.manifest["parts"].as_array().expect("parts");
        let sum = |field: &str| parts.iter().map(|part| part[field].as_u64().expect("a count")).sum::<u64>();
        let (succeeded, failed) = (sum("records"), sum("failed"));
        let counts = self.manifest["counts"].as_object_mut().expect("counts");
        counts
            .extend([("succeeded", succeeded), ("failed", failed), ("records", succeeded + failed)].map(|(k, v)| (k.to_owned(), json!(v))));
        if errors {
            let codes = self.manifest["error_codes"].as_object_mut().expect("codes");
            let only = codes.keys().next().expect("one code").clone();
            codes[&only] = json!(failed);
        }
        self.files.insert(file.to_owned(), bytes);
    }

    /// Puts it, and gives what is found: a code and a sentence each.
    fn found(&self, more: &[&str]) -> Vec<(String, String)> {
        for (name, bytes) in self.files.iter().filter(|(name, _)| *name != "_manifest.json") {
            self.world.s3.put("lake", &format!("{}/{name}", self.prefix), bytes);
        }
        self.world.s3.put("lake", &format!("{}/_manifest.json", self.prefix), self.manifest.to_string().as_bytes());
        let (code, report) = self.world.verify(&self.prefix, more);
        let findings = report["findings"].as_array().expect("findings");
        assert_eq!((code, &report["verified"]), (i32::from(!findings.is_empty()), &json!(findings.is_empty())), "{report:#}");
        assert_eq!(report["findings_total"], findings.len(), "{report:#}");
        let text = |finding: &Value| format!("{} row {}: {}", finding["file"], finding["row"], finding["detail"].as_str().unwrap());
        findings.iter().map(|finding| (finding["code"].as_str().unwrap().to_owned(), text(finding))).collect()
    }
}

fn assert_found(found: &[(String, String)], code: &str, words: &[&str]) {
    let is_it = |(c, text): &&(String, String)| c == code && words.iter().all(|word| text.contains(word));
    assert!(found.iter().any(|f| is_it(&f)), "{code} with {words:?} is not among {found:#?}");
}

#[tokio::test]
async fn a_clean_output_is_proven_in_every_format_with_and_without_its_input() {
    let world = World::start().await;
    for (input, chunk_records, records, failed) in
        [("csv", Some(300), 2035, 3), ("jsonl", Some(300), 2032, 0), ("parquet", Some(300), 2032, 0), ("csv", None, 2035, 3)]
    {
        for (format, compression) in
            [("jsonl", "none"), ("jsonl", "gzip"), ("csv", "zstd"), ("csv", "none"), ("parquet", "none"), ("parquet", "zstd")]
        {
            let output = format!("out/{input}-{format}-{compression}-{}", chunk_records.is_some());
            world.job(input, &output, json!({"format": format, "compression": compression, "include_input": true}), chunk_records).await;
            let (code, report) = world.verify(&output, &[]);
            assert_eq!((code, &report["verified"], &report["complete"]), (0, &json!(true), &json!(true)), "{output}: {report:#}");
            assert_eq!((&report["succeeded"], &report["failed"]), (&json!(records - failed), &json!(failed)), "{output}");
            let (code, report) = world.verify(&output, &["--input"]);
            assert_eq!((code, &report["input_records"]), (0, &json!(records)), "{output}: {report:#}");
        }
    }
}

#[tokio::test]
async fn what_is_done_to_an_output_is_found_with_its_file_and_row() {
    let world = World::start().await;
    world.job("csv", "out", json!({}), Some(300)).await;
    let clean = || world.copy("out", "spoiled");
    assert_eq!(clean().found(&["--input"]), []);
    let fresh = || {
        world.s3.remove("lake", "spoiled");
        clean()
    };

    let mut spoiled = fresh();
    let part = spoiled.part(1);
    spoiled.files.remove(&part);
    assert_found(&spoiled.found(&[]), "missing_part", &[&part]);

    let mut spoiled = fresh();
    let at = spoiled.files[&part].windows(8).position(|w| w == b"\"score\":").unwrap() + 11;
    spoiled.files.get_mut(&part).unwrap()[at] ^= 1;
    let found = spoiled.found(&[]);
    assert_eq!(found.len(), 1, "{found:#?}");
    assert_found(&found, "wrong_digest", &[&part]);

    let mut spoiled = fresh();
    let at = spoiled.files[&part].iter().position(|b| *b == b'{').unwrap();
    spoiled.files.get_mut(&part).unwrap()[at] = b'x';
    let found = spoiled.found(&[]);
    assert_found(&found, "unreadable_row", &[&part, "at 0"]);
    assert_found(&found, "wrong_count", &[&part]);

    // A row that stands twice, at once and far apart, with a manifest that agrees.
    for (from, to) in [(5, 6), (2, 40)] {
        let mut spoiled = fresh();
        let mut lines = spoiled.lines(&part);
        lines.insert(to, lines[from].clone());
        spoiled.rewrite(1, &part, &lines);
        let found = spoiled.found(&[]);
        assert_eq!(found.len(), 1, "{found:#?}");
        assert_found(&found, "two_outcomes", &[&part, &format!("row {to}:"), &format!("row {from} too")]);
    }

    // Rows in the wrong order.
    let mut spoiled = fresh();
    let mut lines = spoiled.lines(&part);
    lines.swap(10, 11);
    spoiled.rewrite(1, &part, &lines);
    assert_found(&spoiled.found(&[]), "out_of_order", &[&part, "row 11:"]);

    // A row of another part.
    let mut spoiled = fresh();
    let mut lines = spoiled.lines(&part);
    lines.push(spoiled.lines(&spoiled.part(0))[3].clone());
    spoiled.rewrite(1, &part, &lines);
    assert_found(&spoiled.found(&[]), "foreign_row", &[&part, &format!("row {}:", lines.len() - 1)]);

    // A missing row, with a manifest that agrees: only the input tells.
    let mut spoiled = fresh();
    let mut lines = spoiled.lines(&part);
    let lost: Value = serde_json::from_str(&lines.remove(17)).unwrap();
    spoiled.rewrite(1, &part, &lines);
    assert_eq!(spoiled.found(&[]), []);
    let found = spoiled.found(&["--input"]);
    assert_eq!(found.len(), 1, "{found:#?}");
    assert_found(
        &found,
        "missing_outcome",
        &[&part, lost["_source"].as_str().unwrap(), &format!("at {} has no outcome", lost["_position"])],
    );

    // A missing error row, and one that a prediction contradicts.
    let with_errors = |spoiled: &Spoiled<'_>| {
        let parts = spoiled.manifest["parts"].as_array().unwrap();
        let at = parts.iter().position(|part| part["failed"] == 3).unwrap();
        (at, parts[at]["errors"]["key"].as_str().unwrap().to_owned())
    };
    let mut spoiled = fresh();
    let (at, errors) = with_errors(&spoiled);
    let mut lines = spoiled.lines(&errors);
    lines.remove(1);
    let bytes = lines.concat().into_bytes();
    spoiled.files.insert(errors.clone(), bytes);
    let found = spoiled.found(&[]);
    assert_found(&found, "wrong_count", &[&errors, "2 rows", "3"]);
    assert_found(&found, "wrong_digest", &[&errors]);
    let mut spoiled = fresh();
    spoiled.rewrite(at, &errors, &lines);
    assert_eq!(spoiled.found(&[]), []);
    assert_found(&spoiled.found(&["--input"]), "missing_outcome", &["in/csv/z.csv", "at 57"]);

    let mut spoiled = fresh();
    let mut lines = spoiled.lines(&errors);
    let twice = lines[0].clone();
    lines.push(twice);
    spoiled.rewrite(at, &errors, &lines);
    assert_found(&spoiled.found(&[]), "two_outcomes", &[&errors, "row 3:", "row 0 too"]);

    // A part that nobody named, one that is named twice, and a marker that is not there or says something else.
    let mut spoiled = fresh();
    spoiled.files.insert("part-000099-abc.jsonl".to_owned(), spoiled.files[&part].clone());
    assert_found(&spoiled.found(&[]), "unnamed_part", &["part-000099-abc.jsonl"]);
    let mut spoiled = fresh();
    spoiled.files.remove("_SUCCESS");
    assert_found(&spoiled.found(&[]), "missing_marker", &["_SUCCESS"]);
    let mut spoiled = fresh();
    spoiled.files.insert("_SUCCESS".to_owned(), b"job_of_another\n".to_vec());
    assert_found(&spoiled.found(&[]), "false_marker", &["_SUCCESS"]);
    let mut spoiled = fresh();
    spoiled.manifest["complete"] = json!(false);
    assert_found(&spoiled.found(&[]), "false_marker", &["_SUCCESS"]);

    // A part taken out of the manifest and the bucket, as if it had never been.
    let mut spoiled = fresh();
    let gone = spoiled.manifest["parts"].as_array_mut().unwrap().remove(1);
    spoiled.files.remove(gone["key"].as_str().unwrap());
    spoiled.rewrite(0, &spoiled.part(0), &spoiled.lines(&spoiled.part(0)));
    let found = spoiled.found(&[]);
    assert_found(&found, "missing_part", &["_manifest.json"]);
    assert_found(&found, "not_covered", &[gone["inputs"][0]["key"].as_str().unwrap()]);

    // Input that is no longer what was scored.
    let spoiled = fresh();
    let key = spoiled.manifest["parts"][0]["inputs"][0]["key"].as_str().unwrap().to_owned();
    let text = world.s3.get("lake", &key);
    world.s3.put("lake", &key, &text[..text.len() - 10]);
    assert_eq!(spoiled.found(&[]), []);
    assert_found(&spoiled.found(&["--input"]), "input_unreadable", &[&key, "changed"]);
}

#[tokio::test]
async fn parquet_parts_are_read_row_by_row_too() {
    let world = World::start().await;
    world.job("parquet", "out", json!({"format": "parquet"}), Some(300)).await;
    let mut spoiled = world.copy("out", "spoiled");
    // Two parts change places: digests and sizes are those of the other, and no row is where it belongs.
    let (a, b) = (spoiled.part(0), spoiled.part(1));
    let (first, second) = (spoiled.files[&a].clone(), spoiled.files[&b].clone());
    spoiled.files.insert(a.clone(), second);
    spoiled.files.insert(b.clone(), first);
    let parts = spoiled.manifest["parts"].as_array_mut().unwrap();
    for field in ["bytes", "sha256", "records"] {
        let (x, y) = (parts[0][field].clone(), parts[1][field].clone());
        (parts[0][field], parts[1][field]) = (y, x);
    }
    let found = spoiled.world.s3.keys("lake", "out/").len();
    assert!(found > 5);
    for (name, bytes) in &spoiled.files {
        world.s3.put("lake", &format!("spoiled/{name}"), bytes);
    }
    world.s3.put("lake", "spoiled/_manifest.json", spoiled.manifest.to_string().as_bytes());
    let (code, report) = world.verify("spoiled", &[]);
    assert_eq!(code, 1);
    // Of the hundreds of findings a few are kept of each part.
    let findings = report["findings"].as_array().unwrap();
    assert!(findings.len() < 100 && report["findings_total"].as_u64().unwrap() > 500, "{report:#}");
    for part in [a, b] {
        assert!(findings.iter().any(|f| f["code"] == "foreign_row" && f["file"] == part.as_str() && f["row"] == 0), "{part}");
    }
}

#[tokio::test]
async fn objects_that_were_lost_in_part_or_as_a_whole_are_accounted_for() {
    let world = World::start().await;
    let csv = support::fixture("data/churn-encoded/csv/customers-0.csv");
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(&csv).unwrap();
    let whole = gz.finish().unwrap();
    world.s3.put("lake", "in/odd/cut.csv.gz", &whole[..whole.len() / 2]);
    world.s3.put("lake", "in/odd/empty.csv", b"");
    world.s3.put("lake", "in/odd/lines.jsonl", b"{\"tenure\": 1}\nnot json\n\n{\"tenure\": \"x\"}\n[1]\n");
    world.s3.put("lake", "in/odd/none.parquet", b"PAR1 and no more");
    world.s3.put("lake", "in/odd/whole.csv.gz", &whole);
    let (_, report) = {
        world.job("odd", "out", json!({"format": "csv"}), None).await;
        world.verify("out", &["--input"])
    };
    assert_eq!(report["findings"], json!([]), "{report:#}");
    assert!(report["failed"].as_u64() > Some(4) && report["input_records"].as_u64() > Some(678), "{report:#}");
}

#[tokio::test]
async fn an_output_on_this_machine_is_verified_by_its_path_and_people_read_a_report() {
    let s3 = S3Server::start().await;
    s3.create_bucket("lake");
    let service = Service::start(&s3, ServiceOptions::default()).await;
    let root = service.file_root();
    for file in support::fixture_files("models/diabetes-ridge").iter().chain(&support::fixture_files("data/diabetes/csv")) {
        let to = root.join(file);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::write(to, support::fixture(file)).unwrap();
    }
    let at = |path: &str| format!("file://{}/{path}/", root.display());
    let definition = json!({"model": at("models/diabetes-ridge"), "input": at("data/diabetes/csv"), "output": at("scores")});
    let id = service.submit(&definition).await;
    assert_eq!(service.wait(&id, PATIENCE).await["state"], "completed");
    let verify = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nightshift"));
        let done = command.arg("verify").args(more).arg("scores").current_dir(&root).output().expect("it runs");
        (done.status.code(), String::from_utf8(done.stdout).unwrap(), String::from_utf8(done.stderr).unwrap())
    };
    let (code, said, _) = verify(&["--input"]);
    assert_eq!(code, Some(0), "{said}");
    for words in [id.as_str(), "442 predictions, 0 errors", "442 records", "verified: each record of the input has exactly one outcome."] {
        assert!(said.contains(words), "{words:?} is not in\n{said}");
    }
    std::fs::remove_file(root.join("scores/_SUCCESS")).unwrap();
    let (code, said, _) = verify(&[]);
    assert_eq!(code, Some(1));
    assert!(said.contains("1 findings:\n  _SUCCESS: the manifest says that the job is complete, and the marker is not there"), "{said}");
    std::fs::remove_file(root.join("scores/_manifest.json")).unwrap();
    let (code, _, error) = verify(&[]);
    assert_eq!(code, Some(1));
    assert!(error.contains("scores/_manifest.json does not exist: no job has finished there"), "{error}");
    assert!(Path::new(&root).exists());
}
