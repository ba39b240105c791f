//! Makes the client of one bucket from its settings and the environment.
//!
//! In the environment each kind of store has the names of its own tools, read by object_store: `AWS_…`, `GOOGLE_…` (and Google's
//! application default credentials) and `AZURE_…`. Where no key is named, an identity of the machine or of the workload is used: a web
//! identity token, a container's or pod's role, the instance's own.

use std::{sync::Arc, time::Duration};

use object_store::{
    BackoffConfig, ClientOptions, RetryConfig,
    aws::AmazonS3Builder,
    azure::{AzureConfigKey, MicrosoftAzureBuilder},
    client::HttpConnector,
    gcp::GoogleCloudStorageBuilder,
    local::LocalFileSystem,
};

use super::{
    bucket::{Backend, Remote, reason},
    credentials,
    settings::BucketSettings,
    stores::Manners,
    unfinished::Uploads,
    wire::Connector,
};
use crate::domain::{Scheme, Uri};

/// The client for the bucket of `uri`.
///
/// # Errors
/// What is wrong with the settings, without a secret.
pub(super) fn connect(uri: &Uri, settings: Option<&BucketSettings>, manners: Manners) -> Result<Backend, String> {
    let default = BucketSettings::default();
    let settings = settings.unwrap_or(&default);
    if let Some(endpoint) = &settings.endpoint {
        check_endpoint(endpoint)?;
    }
    match uri.scheme() {
        Scheme::File => Ok(Backend::File(Arc::new(LocalFileSystem::new().with_fsync(true)))),
        Scheme::S3 => s3(uri.bucket(), settings, manners),
        Scheme::Gs => gs(uri.bucket(), settings, manners),
        Scheme::Az => az(uri.bucket(), settings, manners),
    }
}

/// A user and a password in an endpoint would be a secret in the settings.
fn check_endpoint(endpoint: &str) -> Result<(), String> {
    let url = url::Url::parse(endpoint).map_err(|e| format!("endpoint is no URL: {e}"))?;
    if !matches!(url.scheme(), "http" | "https") || !url.username().is_empty() || url.password().is_some() || url.query().is_some() {
        return Err("endpoint must be http://host:port or https://host:port, without a user and a query".to_owned());
    }
    Ok(())
}

fn s3(bucket: &str, settings: &BucketSettings, manners: Manners) -> Result<Backend, String> {
    let (connector, options) = (Connector::new(manners.requests), client_options("AWS_ALLOW_HTTP", settings, manners));
    let mut builder = AmazonS3Builder::from_env()
        .with_bucket_name(bucket)
        .with_client_options(options.clone())
        .with_retry(retry())
        .with_http_connector(connector.clone());
    if let Some(region) = &settings.region {
        builder = builder.with_region(region);
    }
    if let Some(hosted) = settings.virtual_hosted_style {
        builder = builder.with_virtual_hosted_style_request(hosted);
    }
    if let Some(endpoint) = &settings.endpoint {
        // The environment's name for S3 alone would win over the general one.
        let endpoint = if settings.virtual_hosted_style == Some(true) { hosted_endpoint(bucket, endpoint)? } else { endpoint.clone() };
        builder = builder.with_config(object_store::aws::AmazonS3ConfigKey::S3Endpoint, endpoint);
    }
    if let Some(credentials) = credentials::of_s3(settings)? {
        builder = builder.with_credentials(credentials);
    }
    let made = builder.build().and_then(|store| Ok((store, connector.connect(&options)?)));
    let (store, client) = made.map_err(|e| reason(&e))?;
    Ok(Backend::Remote(Remote::new(store.clone()).with_uploads(Uploads::new(store, client))))
}

/// object_store wants the bucket in the endpoint of a virtual host; people write the endpoint that their store tells them.
fn hosted_endpoint(bucket: &str, endpoint: &str) -> Result<String, String> {
    let mut url = url::Url::parse(endpoint).map_err(|e| format!("endpoint is no URL: {e}"))?;
    let host = url.host_str().unwrap_or_default().to_owned();
    if !host.starts_with(&format!("{bucket}.")) {
        url.set_host(Some(&format!("{bucket}.{host}"))).map_err(|e| format!("{bucket}.{host} is no host: {e}"))?;
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

fn gs(bucket: &str, settings: &BucketSettings, manners: Manners) -> Result<Backend, String> {
    let (account, token) = (credentials::service_account(settings)?, credentials::of_gs(settings)?);
    let named = account.is_some();
    let builder = match (account, token) {
        (None, None) => GoogleCloudStorageBuilder::from_env(),
        (Some(key), None) => GoogleCloudStorageBuilder::new().with_service_account_key(key),
        (None, Some(token)) => GoogleCloudStorageBuilder::new().with_credentials(token),
        (Some(_), Some(_)) => return Err("name one of service_account and bearer_token".to_owned()),
    };
    let mut builder =
        builder.with_bucket_name(bucket).with_client_options(client_options("GOOGLE_ALLOW_HTTP", settings, manners)).with_retry(retry());
    builder = builder.with_http_connector(Connector::new(manners.requests));
    if let Some(endpoint) = &settings.endpoint {
        builder = builder.with_base_url(endpoint.trim_end_matches('/'));
    }
    builder.build().map(|store| Backend::Remote(Remote::new(store))).map_err(|e| match named {
        // What the library says of a key that it cannot read may quote from it.
        true => "the service account's key is not the JSON that Google gives out".to_owned(),
        false => reason(&e),
    })
}

fn az(container: &str, settings: &BucketSettings, manners: Manners) -> Result<Backend, String> {
    let credentials = credentials::of_az(settings)?;
    let environment = MicrosoftAzureBuilder::from_env();
    let account = settings.account.clone().or_else(|| environment.get_config_value(&AzureConfigKey::AccountName));
    let builder = match credentials {
        Some(credentials) => MicrosoftAzureBuilder::new().with_credentials(credentials),
        None => environment,
    };
    let mut builder = builder
        .with_container_name(container)
        .with_client_options(client_options("AZURE_ALLOW_HTTP", settings, manners))
        .with_retry(retry());
    builder = builder.with_http_connector(Connector::new(manners.requests));
    match account {
        Some(account) => builder = builder.with_account(account),
        None => return Err("no storage account is named; set account, or AZURE_STORAGE_ACCOUNT_NAME in the environment".to_owned()),
    }
    if let Some(endpoint) = &settings.endpoint {
        builder = builder.with_endpoint(endpoint.trim_end_matches('/').to_owned());
    }
    builder.build().map(|store| Backend::Remote(Remote::new(store))).map_err(|e| reason(&e))
}

/// The default request timeout includes the body, which for a large object is no measure of health.
fn client_options(environment: &str, settings: &BucketSettings, manners: Manners) -> ClientOptions {
    let from_environment = || std::env::var(environment).is_ok_and(|value| matches!(value.as_str(), "1" | "true" | "TRUE"));
    ClientOptions::new()
        .with_timeout_disabled()
        .with_connect_timeout(Duration::from_secs(5))
        .with_read_timeout(manners.timeout)
        .with_allow_http(settings.allow_http.unwrap_or_else(from_environment))
}

/// How often a request is sent again, and for how long. How long that waits is the [call's](super::call) business: what object_store
/// waits itself, which for the first retry is always the same, is next to nothing.
fn retry() -> RetryConfig {
    let next_to_nothing = Duration::from_millis(1);
    RetryConfig {
        backoff: BackoffConfig { init_backoff: next_to_nothing, max_backoff: next_to_nothing, base: 2.0 },
        max_retries: 8,
        retry_timeout: Duration::from_secs(120),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_virtual_host_gets_its_bucket_once() {
        assert_eq!(hosted_endpoint("lake", "https://s3.example.com").unwrap(), "https://lake.s3.example.com");
        assert_eq!(hosted_endpoint("lake", "https://lake.s3.example.com/").unwrap(), "https://lake.s3.example.com");
    }

    #[test]
    fn an_endpoint_holds_no_secret() {
        assert!(check_endpoint("http://127.0.0.1:9000").is_ok());
        for endpoint in ["http://user:password@host", "ftp://host", "host:9000", "https://host/?sig=x"] {
            let error = check_endpoint(endpoint).unwrap_err();
            assert!(!error.contains("password"), "{error}");
        }
    }
}
