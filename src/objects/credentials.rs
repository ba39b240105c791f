//! Credentials that a bucket's settings name, read again from time to time: files may be replaced while the service runs.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use object_store::{
    CredentialProvider,
    aws::AwsCredential,
    azure::{AzureAccessKey, AzureCredential, split_sas},
    gcp::GcpCredential,
};

use super::settings::{BucketSettings, Secret};

/// How old a reading may be. Files are small and local.
const FRESH: Duration = Duration::from_secs(5);

/// The credentials of one bucket.
pub(super) struct Credentials<C> {
    read: Box<dyn Fn() -> Result<C, String> + Send + Sync>,
    kept: Mutex<(Instant, Arc<C>)>,
}

impl<C> Credentials<C> {
    fn new(read: impl Fn() -> Result<C, String> + Send + Sync + 'static) -> Result<Arc<Self>, String> {
        let first = Arc::new(read()?);
        Ok(Arc::new(Self { read: Box::new(read), kept: Mutex::new((Instant::now(), first)) }))
    }
}

impl<C> fmt::Debug for Credentials<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(hidden)")
    }
}

#[async_trait]
impl<C: Send + Sync> CredentialProvider for Credentials<C> {
    type Credential = C;

    async fn get_credential(&self) -> object_store::Result<Arc<C>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.0.elapsed() > FRESH {
            // A file that is being replaced right now is no reason to stop: the store will say if the old ones have run out.
            let credentials = match (self.read)() {
                Ok(fresh) => Arc::new(fresh),
                Err(error) => {
                    tracing::warn!(error, "credentials cannot be read again, those read before are kept: {error}");
                    kept.1.clone()
                }
            };
            *kept = (Instant::now(), credentials);
        }
        Ok(kept.1.clone())
    }
}

/// Those of S3, if the settings name any.
pub(super) fn of_s3(settings: &BucketSettings) -> Result<Option<Arc<Credentials<AwsCredential>>>, String> {
    let s = settings;
    let id = Secret::of("access_key_id", s.access_key_id_env.as_ref(), s.access_key_id_file.as_ref())?;
    let key = Secret::of("secret_access_key", s.secret_access_key_env.as_ref(), s.secret_access_key_file.as_ref())?;
    let token = Secret::of("session_token", s.session_token_env.as_ref(), s.session_token_file.as_ref())?;
    match (id, key, token) {
        (None, None, None) => Ok(None),
        (Some(id), Some(key), token) => Credentials::new(move || {
            Ok(AwsCredential { key_id: id.read()?, secret_key: key.read()?, token: token.as_ref().map(Secret::read).transpose()? })
        })
        .map(Some),
        (None, _, _) => Err("access_key_id_env or access_key_id_file is missing".to_owned()),
        (_, None, _) => Err("secret_access_key_env or secret_access_key_file is missing".to_owned()),
    }
}

/// A service account's JSON key, if the settings name one. It is read when the store is opened and not again.
pub(super) fn service_account(settings: &BucketSettings) -> Result<Option<String>, String> {
    let place = Secret::of("service_account", settings.service_account_env.as_ref(), settings.service_account_file.as_ref())?;
    place.map(|place| place.read()).transpose()
}

/// A bearer token of GCS, if the settings name one.
pub(super) fn of_gs(settings: &BucketSettings) -> Result<Option<Arc<Credentials<GcpCredential>>>, String> {
    let token = Secret::of("bearer_token", settings.bearer_token_env.as_ref(), settings.bearer_token_file.as_ref())?;
    token.map(|token| Credentials::new(move || Ok(GcpCredential { bearer: token.read()? }))).transpose()
}

/// Those of Azure, if the settings name any.
pub(super) fn of_az(settings: &BucketSettings) -> Result<Option<Arc<Credentials<AzureCredential>>>, String> {
    let s = settings;
    let key = Secret::of("access_key", s.access_key_env.as_ref(), s.access_key_file.as_ref())?;
    let sas = Secret::of("sas_token", s.sas_token_env.as_ref(), s.sas_token_file.as_ref())?;
    let bearer = Secret::of("bearer_token", s.bearer_token_env.as_ref(), s.bearer_token_file.as_ref())?;
    match (key, sas, bearer) {
        (None, None, None) => Ok(None),
        // What the library says of a wrong key may quote it, and a secret is never repeated.
        (Some(key), None, None) => Credentials::new(move || {
            AzureAccessKey::try_new(&key.read()?).map(AzureCredential::AccessKey).map_err(|_| "the access key is not Base64".to_owned())
        })
        .map(Some),
        (None, Some(sas), None) => Credentials::new(move || {
            split_sas(&sas.read()?).map(AzureCredential::SASToken).map_err(|_| "the SAS token is no query string".to_owned())
        })
        .map(Some),
        (None, None, Some(token)) => Credentials::new(move || Ok(AzureCredential::BearerToken(token.read()?))).map(Some),
        _ => Err("name one of access_key, sas_token and bearer_token".to_owned()),
    }
}
