//! Stores of every kind, each reached by its own settings.

mod support;

use std::{path::Path, process::Command, time::Duration};

use serde_json::{Value, json};
use support::{
    Endpoint, S3Server, Service, ServiceOptions,
    azure::{AZURE_KEY, AzureServer},
    gcs::GcsServer,
    golden,
    sts::TokenService,
};

const PATIENCE: Duration = Duration::from_secs(60);
const ACCOUNT: &str = "scores@nightshift.example";

/// A configuration file in a folder of its own.
fn config(text: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("nightshift.toml");
    std::fs::write(&path, text).expect("written");
    let path = path.to_str().expect("UTF-8").to_owned();
    (folder, path)
}

/// A service account's key, made now: none must stand in a repository.
fn service_account_key(folder: &Path) -> String {
    let made = Command::new("openssl").args(["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"]).output();
    let made = made.expect("openssl is there");
    assert!(made.status.success());
    let key = json!({"type": "service_account", "client_email": ACCOUNT, "private_key_id": "k1",
                     "private_key": String::from_utf8(made.stdout).expect("PEM")});
    let path = folder.join("key.json");
    std::fs::write(&path, key.to_string()).expect("written");
    path.to_str().expect("UTF-8").to_owned()
}

fn diabetes_job(input: &str, output: &str) -> Value {
    json!({"model": "s3://models/diabetes-ridge/", "input": input, "output": output})
}

fn rows_of(manifest: &Value, get: impl Fn(&str) -> Vec<u8>) -> Vec<golden::Row> {
    let parts = manifest["parts"].as_array().expect("parts");
    parts.iter().filter_map(|p| p["key"].as_str()).flat_map(|key| golden::read_rows(key, &get(key))).collect()
}

fn assert_golden(rows: &[golden::Row]) {
    let expected = golden::expected("diabetes-ridge.jsonl");
    assert_eq!(rows.len(), expected.len());
    for (row, wanted) in rows.iter().zip(&expected) {
        assert!(golden::agree(&row["prediction"], &wanted["prediction"], 1e-4), "{row:?} {wanted:?}");
    }
}

#[tokio::test]
async fn two_s3_servers_with_different_keys_serve_one_job() {
    let lake = S3Server::start().await;
    let archive = S3Server::start_for(Some(("OTHERKEY", "another-secret-of-the-harness"))).await;
    lake.create_bucket("lake");
    lake.create_bucket("models");
    archive.create_bucket("archive");
    lake.put_fixture("models/diabetes-ridge", "models", "diabetes-ridge/");
    archive.put_fixture("data/diabetes/jsonl", "archive", "in/");
    let (folder, path) = config(&format!(
        "[buckets.archive]\nendpoint = \"{}\"\nallow_http = true\nregion = \"eu-central-1\"\naccess_key_id_env = \"ARCHIVE_KEY\"\n\
         secret_access_key_file = \"SECRET\"\n",
        archive.url()
    ));
    let secret = folder.path().join("secret");
    let text = std::fs::read_to_string(&path).unwrap().replace("SECRET", secret.to_str().unwrap());
    std::fs::write(&path, text).unwrap();
    std::fs::write(&secret, "another-secret-of-the-harness\n").unwrap();
    let options = ServiceOptions::default().arg("--config", &path).env("ARCHIVE_KEY", "OTHERKEY");
    let service = Service::start(&lake, options).await;
    let id = service.submit(&diabetes_job("s3://archive/in/", "s3://lake/out/")).await;
    let job = service.wait(&id, PATIENCE).await;
    assert_eq!(job["state"], "completed", "{job:#}");
    let output = golden::Output::read(&lake, "lake", "out/");
    output.check_invariants();
    assert_golden(&output.rows);
    let log = service.log();
    assert!(!log.contains("another-secret-of-the-harness"), "a secret stands in the log");
}

#[tokio::test]
async fn a_missing_variable_or_file_is_told_at_start() {
    for (section, said) in [
        ("[buckets.lake]\naccess_key_id_env = \"NOT_SET_ANYWHERE\"\nsecret_access_key_env = \"X\"", "NOT_SET_ANYWHERE is not set"),
        ("[buckets.lake]\nsecret_access_key_env = \"PATH\"", "access_key_id_env or access_key_id_file is missing"),
        ("[buckets.lake]\nkind = \"gs\"\nservice_account_file = \"/nowhere/key.json\"", "/nowhere/key.json cannot be read"),
        ("[buckets.lake]\nkind = \"az\"\naccess_key_env = \"PATH\"", "the access key is not Base64"),
        ("[buckets.lake]\nregoin = \"x\"", "did you mean region?"),
    ] {
        let (folder, path) = config(section);
        let mut command = Command::new(env!("CARGO_BIN_EXE_nightshift"));
        command.args(["serve", "--listen", "127.0.0.1:0", "--config", &path, "--data-dir"]).arg(folder.path().join("data"));
        let output = command.env_remove("NIGHTSHIFT_CONFIG").output().expect("the binary starts");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && text.contains("[buckets.lake]: ") && text.contains(said), "{section}: {text}");
    }
}

#[tokio::test]
async fn a_job_reads_and_writes_google_cloud_storage() {
    let s3 = S3Server::start().await;
    s3.create_bucket("models");
    s3.put_fixture("models/diabetes-ridge", "models", "diabetes-ridge/");
    let gcs = GcsServer::start(ACCOUNT).await;
    gcs.create_bucket("tables");
    gcs.put_fixture("data/diabetes/jsonl", "tables", "in/");
    let folder = tempfile::tempdir().unwrap();
    let key = service_account_key(folder.path());
    let (_config, path) = config(&format!(
        "[buckets.tables]\nkind = \"gs\"\nendpoint = \"{}\"\nallow_http = true\nservice_account_file = \"{key}\"\n",
        gcs.base_url()
    ));
    let service = Service::start(&s3, ServiceOptions::default().arg("--config", &path)).await;
    let id = service.submit(&diabetes_job("gs://tables/in/", "gs://tables/out/")).await;
    let job = service.wait(&id, PATIENCE).await;
    assert_eq!(job["state"], "completed", "{job:#}");
    let output = golden::Output::read(&gcs, "tables", "out/");
    output.check_invariants();
    assert_golden(&output.rows);

    let (_, results) = service.get(&format!("/v1/jobs/{id}/results")).await;
    let url = results["items"][0]["url"].as_str().expect("a URL");
    assert!(url.contains("X-Goog-Signature=") && results["items"][0]["expires_at"].is_string(), "{results:#}");
    let answer = service.client().get(url).send().await.expect("an answer");
    assert_eq!(answer.status().as_u16(), 200);
    assert_eq!(answer.bytes().await.unwrap().len() as u64, results["items"][0]["bytes"]);
}

#[tokio::test]
async fn a_job_reads_and_writes_azure_blob_storage() {
    let s3 = S3Server::start().await;
    s3.create_bucket("models");
    s3.put_fixture("models/diabetes-ridge", "models", "diabetes-ridge/");
    let azure = AzureServer::start("acme").await;
    for file in support::fixture_files("data/diabetes/jsonl") {
        let name = file.trim_start_matches("data/diabetes/jsonl/");
        azure.put("tables", &format!("in/{name}"), &support::fixture(&file));
    }
    let (_config, path) = config(&format!(
        "[buckets.tables]\nkind = \"az\"\naccount = \"acme\"\nendpoint = \"{}\"\nallow_http = true\naccess_key_env = \"ACME_KEY\"\n",
        azure.base_url()
    ));
    let options = ServiceOptions::default().arg("--config", &path).env("ACME_KEY", AZURE_KEY);
    let service = Service::start(&s3, options).await;
    let id = service.submit(&diabetes_job("az://tables/in/", "az://tables/out/")).await;
    let job = service.wait(&id, PATIENCE).await;
    assert_eq!(job["state"], "completed", "{job:#}");
    let manifest: Value = serde_json::from_slice(&azure.get("tables", "out/_manifest.json")).unwrap();
    assert_golden(&rows_of(&manifest, |key| azure.get("tables", &format!("out/{key}"))));
    assert!(azure.keys("tables", "out/").contains(&"out/_SUCCESS".to_owned()));

    let (_, results) = service.get(&format!("/v1/jobs/{id}/results")).await;
    let url = results["items"][0]["url"].as_str().expect("a URL");
    assert!(url.contains("sig="), "{results:#}");
    assert_eq!(service.client().get(url).send().await.expect("an answer").status().as_u16(), 200);

    // The same container as an object's home, and an occupied prefix is seen there as well.
    let (status, refused) = service.post("/v1/jobs", &diabetes_job("az://tables/in/", "az://tables/out/")).await;
    assert_eq!(status, 409, "{refused:#}");
}

#[tokio::test]
async fn results_are_given_through_the_api_where_the_identity_cannot_sign() {
    let s3 = S3Server::start().await;
    s3.create_bucket("models");
    s3.put_fixture("models/diabetes-ridge", "models", "diabetes-ridge/");
    let azure = AzureServer::start("acme").await;
    azure.put("tables", "in/0.jsonl", &support::fixture(&support::fixture_files("data/diabetes/jsonl")[0]));
    let (_config, path) = config(&format!(
        "[buckets.tables]\nkind = \"az\"\naccount = \"acme\"\nendpoint = \"{}\"\nallow_http = true\nsas_token_env = \"ACME_SAS\"\n",
        azure.base_url()
    ));
    let options = ServiceOptions::default().arg("--config", &path).env("ACME_SAS", "se=2030-01-01&sp=rwdl&sig=abc");
    let service = Service::start(&s3, options).await;
    let id = service.submit(&diabetes_job("az://tables/in/", "az://tables/out/")).await;
    assert_eq!(service.wait(&id, PATIENCE).await["state"], "completed");
    let (status, results) = service.get(&format!("/v1/jobs/{id}/results")).await;
    assert_eq!(status, 200, "{results:#}");
    assert_eq!(results["items"][0]["url"], format!("/v1/jobs/{id}/results/0"));
    assert!(results["items"][0]["expires_at"].is_null());
    assert_eq!(service.status(&format!("/v1/jobs/{id}/results/0")).await, 200);
}

#[tokio::test]
async fn a_replaced_credential_file_needs_no_restart() {
    let s3 = S3Server::start().await;
    s3.create_bucket("lake");
    s3.put_fixture("models/diabetes-ridge", "lake", "model/");
    s3.put_fixture("data/diabetes/jsonl", "lake", "in/");
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "no longer valid").unwrap();
    let (_config, path) =
        config(&format!("[buckets.lake]\naccess_key_id_env = \"LAKE_KEY\"\nsecret_access_key_file = \"{}\"\n", secret.display()));
    let options = ServiceOptions::default().arg("--config", &path).env("LAKE_KEY", support::ACCESS_KEY);
    let service = Service::start(&s3, options).await;
    let definition = json!({"model": "s3://lake/model/", "input": "s3://lake/in/", "output": "s3://lake/out/"});
    let (status, refused) = service.post("/v1/jobs", &definition).await;
    assert_eq!(status, 422, "{refused:#}");
    std::fs::write(&secret, support::SECRET_KEY).unwrap();
    let deadline = std::time::Instant::now() + PATIENCE;
    let id = loop {
        let (status, answer) = service.post("/v1/jobs", &definition).await;
        if status == 202 {
            break answer["id"].as_str().expect("an id").to_owned();
        }
        assert!(std::time::Instant::now() < deadline, "{answer:#}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert_eq!(service.wait(&id, PATIENCE).await["state"], "completed");
}

#[tokio::test]
async fn a_web_identity_gets_its_keys_from_the_token_service() {
    let s3 = S3Server::start().await;
    s3.create_bucket("lake");
    s3.put_fixture("models/diabetes-ridge", "lake", "model/");
    s3.put_fixture("data/diabetes/jsonl", "lake", "in/");
    let sts = TokenService::start("token-of-the-workload");
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "token-of-the-workload").unwrap();
    let options = ServiceOptions::default()
        .unset("AWS_ACCESS_KEY_ID")
        .unset("AWS_SECRET_ACCESS_KEY")
        .env("AWS_WEB_IDENTITY_TOKEN_FILE", token.to_str().unwrap())
        .env("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/scores")
        .env("AWS_ENDPOINT_URL_STS", &sts.url())
        .env("SSL_CERT_FILE", sts.authority().to_str().unwrap());
    let service = Service::start(&s3, options).await;
    let id = service.submit(&json!({"model": "s3://lake/model/", "input": "s3://lake/in/", "output": "s3://lake/out/"})).await;
    let job = service.wait(&id, PATIENCE).await;
    assert_eq!(job["state"], "completed", "{job:#}");
    assert_golden(&golden::Output::read(&s3, "lake", "out/").rows);
    // The service and its runner, each for itself.
    assert!(sts.asked() >= 2, "{}", sts.asked());
}
