//! `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header): a request that is sent again makes no second job.
//!
//! The fingerprint is taken of what a request means, not of its bytes: fields in another order and other white space are the same
//! request. A request that was refused leaves no key behind; mended, it may use the same one.

use axum::http::HeaderMap;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::problem::ApiProblem;
use crate::{db::IdempotencyKey, domain::Fault};

const HEADER: &str = "idempotency-key";
/// Says of an answer that the job was made by an earlier request.
pub(super) const REPLAYED: &str = "idempotency-replayed";
const LONGEST_KEY: usize = 255;

/// The key of a request with this body, if it has one.
pub(super) fn key(headers: &HeaderMap, body: &Value) -> Result<Option<IdempotencyKey>, ApiProblem> {
    let mut given = headers.get_all(HEADER).iter();
    let Some(key) = given.next() else { return Ok(None) };
    let text = key.to_str().unwrap_or_default();
    let visible = (1..=LONGEST_KEY).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
    if !visible || given.next().is_some() {
        let fault = Fault::new(
            "Idempotency-Key",
            "invalid_key",
            format!("the header is not one key of 1 to {LONGEST_KEY} visible ASCII characters"),
        );
        return Err(ApiProblem::faults(vec![fault.hint("send a UUID that is new for each job and the same for each time you send it")]));
    }
    let mut digest = Sha256::new();
    fingerprint(body, &mut digest);
    let fingerprint = digest.finalize().iter().map(|b| format!("{b:02x}")).collect();
    Ok(Some(IdempotencyKey { key: text.to_owned(), fingerprint }))
}

/// JSON without white space, the fields of each object in the order of their names.
fn fingerprint(value: &Value, digest: &mut Sha256) {
    match value {
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_by_key(|(name, _)| *name);
            digest.update(b"{");
            for (name, value) in fields {
                digest.update(Value::from(name.as_str()).to_string());
                digest.update(b":");
                fingerprint(value, digest);
                digest.update(b",");
            }
            digest.update(b"}");
        }
        Value::Array(items) => {
            digest.update(b"[");
            for item in items {
                fingerprint(item, digest);
                digest.update(b",");
            }
            digest.update(b"]");
        }
        other => digest.update(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(body: &str) -> String {
        let headers = HeaderMap::from_iter([(HEADER.parse().unwrap(), "k".parse().unwrap())]);
        key(&headers, &serde_json::from_str(body).unwrap()).unwrap().unwrap().fingerprint
    }

    #[test]
    fn the_same_request_is_recognised_however_it_is_written() {
        let same = of(r#"{"model": "s3://m/", "input": {"uri": "s3://i/", "include": ["a", "b"]}}"#);
        assert_eq!(of(r#"{"input":{"include":["a","b"],"uri":"s3:\/\/i/"},"model":"s3://m/"}"#), same);
        for other in [
            r#"{"model": "s3://m/", "input": {"uri": "s3://i/", "include": ["b", "a"]}}"#,
            r#"{"model": "s3://m/", "input": {"uri": "s3://i/", "include": ["a,b"]}}"#,
            r#"{"model": "s3://m/", "input": {"uri": "s3://i/"}, "include": ["a", "b"]}"#,
            r#"{"model": "s3://m/"}"#,
        ] {
            assert_ne!(of(other), same, "{other}");
        }
    }

    #[test]
    fn a_key_is_visible_ascii_of_limited_length() {
        let read = |key: &[u8]| {
            let headers = HeaderMap::from_iter([(HEADER.parse().unwrap(), axum::http::HeaderValue::from_bytes(key).unwrap())]);
            super::key(&headers, &json!({}))
        };
        for good in [&b"8e03978e-40d5-43e8-bc93-6894a57f9324"[..], b"\"quoted\"", &[b'x'; 255]] {
            assert!(read(good).unwrap().is_some());
        }
        for bad in [&b""[..], b"two words", "ä".as_bytes(), &[b'x'; 256]] {
            assert_eq!(read(bad).unwrap_err().status, 422);
        }
        assert!(super::key(&HeaderMap::new(), &json!({})).unwrap().is_none());
    }
}
