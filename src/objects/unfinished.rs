//! Ends multipart uploads that nobody will complete: what a killed process leaves in a bucket, unseen but paid for.
//!
//! object_store does not list them, so that one request is written here, signed as a presigned URL is. The form of its answer is that of
//! <https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListMultipartUploads.html>.

use std::{sync::Arc, time::Duration};

use object_store::{
    aws::AmazonS3,
    client::{HttpClient, HttpRequest, HttpRequestBody},
    multipart::MultipartStore,
    path::Path,
    signer::{SignedUrlOptions, Signer},
};
use reqwest::Method;
use serde::Deserialize;

use super::{
    Error, Result,
    bucket::{Bucket, reason, translate},
    call::{Account, CALL, Call},
};
use crate::telemetry::tally::{Operation, Outcome};

/// How long a signature is good.
const TTL: Duration = Duration::from_secs(60);
/// Requests for one page before it is given up.
const TRIES: u32 = 6;

/// Uploads of one bucket.
#[derive(Debug)]
pub(super) struct Uploads {
    store: AmazonS3,
    client: HttpClient,
}

/// One page of a listing.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Page {
    #[serde(default)]
    is_truncated: bool,
    #[serde(default)]
    next_key_marker: String,
    #[serde(default)]
    next_upload_id_marker: String,
    #[serde(default, rename = "Upload")]
    uploads: Vec<Begun>,
}

/// An upload that has begun and not ended.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Begun {
    key: String,
    upload_id: String,
}

impl Uploads {
    pub(super) fn new(store: AmazonS3, client: HttpClient) -> Arc<Self> {
        Arc::new(Self { store, client })
    }

    /// Ends those directly below `prefix` whose name `ours` recognises.
    ///
    /// # Errors
    /// Those of the store, of which many know no such listing, or allow none.
    pub(super) async fn end(&self, bucket: &Bucket, account: &Account, prefix: &str, ours: impl Fn(&str) -> bool) -> Result<()> {
        let mut after = (String::new(), String::new());
        loop {
            let page = self.page(bucket, account, prefix, &after).await?;
            for begun in page.uploads {
                let Some(name) = begun.key.strip_prefix(prefix).filter(|name| !name.contains('/') && ours(name)) else { continue };
                let uri = bucket.uri(&begun.key);
                tracing::debug!("ending an upload of {name} that nobody completed");
                let path = Path::parse(&begun.key).map_err(|e| Error::BadKey { uri: uri.clone(), reason: e.to_string() })?;
                let call = Call::new(Operation::PutMultipart, account.clone());
                let ended = CALL.scope(call, self.store.abort_multipart(&path, &begun.upload_id)).await;
                match ended.map_err(|e| translate("DELETE", &uri, None, e)) {
                    Ok(()) | Err(Error::NotFound { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
            if !page.is_truncated {
                return Ok(());
            }
            after = (page.next_key_marker, page.next_upload_id_marker);
        }
    }

    async fn page(&self, bucket: &Bucket, account: &Account, prefix: &str, after: &(String, String)) -> Result<Page> {
        let uri = bucket.uri(prefix);
        let call = Call::new(Operation::List, account.clone());
        let mut query = vec![("uploads", ""), ("prefix", prefix)];
        if !after.0.is_empty() {
            query.extend([("key-marker", after.0.as_str()), ("upload-id-marker", after.1.as_str())]);
        }
        let mut tries = 0;
        let page = loop {
            tries += 1;
            match CALL.scope(call.clone(), self.ask(&query)).await {
                Ok(page) => break Ok(page),
                Err((reason, true)) if tries < TRIES => tracing::debug!(%uri, "asking for unfinished uploads again: {reason}"),
                Err((reason, true)) => break Err(Error::Unavailable { operation: "LIST", uri, reason }),
                Err((reason, false)) => break Err(Error::Denied { uri, reason }),
            }
        };
        let outcome = match &page {
            Ok(_) => Outcome::Ok,
            Err(Error::Denied { .. }) => Outcome::Refused,
            Err(_) => Outcome::Failed,
        };
        account.tally.request(Operation::List, outcome);
        page
    }

    /// One request; the reason why there is no page, and whether another may bring one.
    async fn ask(&self, query: &[(&str, &str)]) -> std::result::Result<Page, (String, bool)> {
        let options = SignedUrlOptions::default().with_query(query.iter().copied());
        // The bucket itself is the empty path.
        let url = self.store.signed_url_opts(Method::GET, &Path::default(), TTL, &options).await;
        let url = url.map_err(|e| (reason(&e), false))?;
        let mut request = HttpRequest::new(HttpRequestBody::empty());
        *request.uri_mut() = url.as_str().parse().map_err(|_| ("the store's address is no URI".to_owned(), false))?;
        let answer = self.client.execute(request).await.map_err(|e| (reason(&e), true))?;
        let status = answer.status();
        if !status.is_success() {
            // 501 is how a server says that it knows no such request.
            let passing = status.is_server_error() && status.as_u16() != 501 || matches!(status.as_u16(), 408 | 429);
            return Err((format!("the store answered {status}"), passing));
        }
        let body = answer.into_body().bytes().await.map_err(|e| (reason(&e), true))?;
        quick_xml::de::from_reader(body.as_ref()).map_err(|e| (format!("the answer is no list of uploads: {e}"), false))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_of_uploads_is_read_as_s3_documents_it() {
        let page: Page = quick_xml::de::from_str(
            r#"<?xml version="1.0" encoding="UTF-8"?>
            <ListMultipartUploadsResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">
              <Bucket>lake</Bucket><KeyMarker></KeyMarker><UploadIdMarker></UploadIdMarker>
              <NextKeyMarker>out/b</NextKeyMarker><NextUploadIdMarker>id-2</NextUploadIdMarker>
              <MaxUploads>2</MaxUploads><IsTruncated>true</IsTruncated>
              <Upload><Key>out/a &amp; o</Key><UploadId>id-1</UploadId><StorageClass>STANDARD</StorageClass></Upload>
              <Upload><Key>out/b</Key><UploadId>id-2</UploadId></Upload>
            </ListMultipartUploadsResult>"#,
        )
        .unwrap();
        assert!(page.is_truncated);
        assert_eq!((page.next_key_marker.as_str(), page.next_upload_id_marker.as_str()), ("out/b", "id-2"));
        let begun: Vec<(&str, &str)> = page.uploads.iter().map(|u| (u.key.as_str(), u.upload_id.as_str())).collect();
        assert_eq!(begun, [("out/a & o", "id-1"), ("out/b", "id-2")]);
    }

    #[test]
    fn a_page_without_uploads_is_empty() {
        let page: Page =
            quick_xml::de::from_str("<ListMultipartUploadsResult><IsTruncated>false</IsTruncated></ListMultipartUploadsResult>").unwrap();
        assert!(page.uploads.is_empty() && !page.is_truncated);
    }
}
