//! What a value that cannot be used was most likely meant to be: words for hints.

use crate::domain::Uri;

/// Names of files that hold a model in another form than ONNX, and what they are.
const OTHER_MODELS: [(&str, &str); 14] = [
    ("pkl", "a Python pickle"),
    ("pickle", "a Python pickle"),
    ("joblib", "a Python pickle"),
    ("pt", "a PyTorch file"),
    ("pth", "a PyTorch file"),
    ("ckpt", "a training checkpoint"),
    ("h5", "a Keras file"),
    ("keras", "a Keras file"),
    ("pb", "a TensorFlow graph"),
    ("tflite", "a TensorFlow Lite file"),
    ("safetensors", "a file of weights without their graph"),
    ("gguf", "a file of language model weights"),
    ("ubj", "an XGBoost file"),
    ("pmml", "a PMML document"),
];

/// How a model becomes ONNX.
pub(super) const EXPORT: &str = "export it as ONNX (skl2onnx for scikit-learn, onnxmltools for XGBoost and LightGBM, torch.onnx.export for \
                                 PyTorch, tf2onnx for TensorFlow) and name the .onnx file or its folder";

/// What the model at this location is, when its name says that it is no ONNX.
pub(super) fn other_model(uri: &Uri) -> Option<&'static str> {
    let (_, extension) = uri.path().rsplit('/').next()?.rsplit_once('.')?;
    OTHER_MODELS.iter().find(|(known, _)| extension.eq_ignore_ascii_case(known)).map(|(_, what)| *what)
}

/// Whether a location has a user, and perhaps a password, before its bucket.
pub(super) fn has_credentials(text: &str) -> bool {
    let rest = text.split_once("://").map_or("", |(_, rest)| rest);
    rest.split('/').next().is_some_and(|host| host.contains('@'))
}

/// What to write instead of a text that is no location.
pub(super) fn location(text: &str, example: &str) -> String {
    let general = format!("write s3://bucket/prefix/, gs://…, az://… or file:///path/, for example {example:?}");
    let drive = text.len() > 2 && text.as_bytes()[0].is_ascii_alphabetic() && text[1..].starts_with(":\\");
    if drive || text.starts_with("\\\\") {
        return format!("the service does not see the disks of your machine: copy the files to a bucket and write {example:?}");
    }
    if text.starts_with('/') {
        return format!("write \"file://{text}\" for a folder of the service's own machine, or {example:?} for a bucket");
    }
    if let Some(rest) = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")) {
        return match bucket_of(rest) {
            Some(found) => format!("write \"s3://{found}\""),
            None => format!("web addresses are not read: copy what lies there to a bucket and write {example:?}"),
        };
    }
    if let Some((scheme @ ("s3" | "gs" | "az" | "file"), rest)) = text.split_once("://")
        && rest.trim_start_matches('/').contains("//")
        && (scheme == "file" || !rest.starts_with('/'))
    {
        let (lead, path) = rest.split_at(rest.len() - rest.trim_start_matches('/').len());
        let segments: Vec<&str> = path.split('/').filter(|s| !s.is_empty()).collect();
        let end = if path.ends_with('/') { "/" } else { "" };
        return format!("write \"{scheme}://{lead}{}{end}\", without the doubled slash", segments.join("/"));
    }
    if let Some(rest) = text.strip_prefix("s3a://").or_else(|| text.strip_prefix("s3n://")) {
        return format!("write \"s3://{rest}\"");
    }
    match text.split_once('/') {
        Some((bucket, _)) if !text.contains(':') && !bucket.is_empty() && !bucket.starts_with('.') => {
            format!("write \"s3://{text}\" if {bucket:?} is a bucket, or \"file:///…\" with an absolute path")
        }
        _ => general,
    }
}

/// Bucket and key in an address of Amazon S3, in either of its forms.
fn bucket_of(address: &str) -> Option<String> {
    let (host, path) = address.split_once('/').unwrap_or((address, ""));
    let host = host.strip_suffix(".amazonaws.com")?;
    let path = path.split('?').next().unwrap_or_default();
    if host == "s3" || host.starts_with("s3.") || host.starts_with("s3-") {
        return (!path.is_empty()).then(|| path.to_owned());
    }
    let at = host.find(".s3")?;
    Some(format!("{}/{path}", &host[..at]))
}

/// Whether a label looks like a credential. Labels are shown in lists and written to logs.
pub(super) fn is_secret(key: &str, value: &str) -> bool {
    const BEGINNINGS: [&str; 9] = ["whsec_", "ghp_", "gho_", "github_pat_", "glpat-", "xoxb-", "xoxp-", "Bearer ", "-----BEGIN"];
    const NAMES: [&str; 8] = ["password", "passwd", "secret", "token", "api_key", "apikey", "access_key", "credential"];
    let access_key = |word: &str| {
        (word.starts_with("AKIA") || word.starts_with("ASIA"))
            && word.len() == 20
            && word.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit())
    };
    let token = value.starts_with("eyJ") && value.matches('.').count() == 2;
    // A name alone is no proof: a label "token_count" holds a number.
    let (key, random) = (key.to_lowercase(), value.len() >= 16 && !value.contains(' ') && value.bytes().any(|b| b.is_ascii_digit()));
    BEGINNINGS.iter().any(|beginning| value.starts_with(beginning))
        || value.split_ascii_whitespace().any(access_key)
        || token
        || random && NAMES.iter().any(|name| key.contains(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_s3_is_told_as_its_location() {
        for (address, wanted) in [
            ("https://lake.s3.amazonaws.com/in/a.csv", "\"s3://lake/in/a.csv\""),
            ("https://my.lake.s3.eu-central-1.amazonaws.com/in/?versionId=7", "\"s3://my.lake/in/\""),
            ("http://s3.us-east-1.amazonaws.com/lake/in/", "\"s3://lake/in/\""),
            ("https://example.com/in.csv", "bucket"),
            ("s3a://lake/in/", "\"s3://lake/in/\""),
            ("s3://lake//in//x/", "\"s3://lake/in/x/\""),
            ("file:///a//b", "\"file:///a/b\""),
            ("lake/in/", "\"s3://lake/in/\""),
            ("/data/in/", "\"file:///data/in/\""),
            ("D:\\in", "disks"),
            ("", "s3://"),
            ("é:", "s3://"),
        ] {
            let hint = location(address, "s3://lake/x/");
            assert!(hint.contains(wanted), "{address}: {hint}");
        }
    }

    #[test]
    fn what_looks_like_a_credential_is_told_from_what_does_not() {
        for (key, value) in
            [("owner", "AKIAIOSFODNN7EXAMPLE"), ("db_password", "correct-horse-7-battery"), ("x", "Bearer abc"), ("x", "whsec_abc")]
        {
            assert!(is_secret(key, value), "{key} {value}");
        }
        for (key, value) in [
            ("token_count", "12"),
            ("team", "risk"),
            ("secret_santa", "yes"),
            ("run", "2026-11-23T02:00:00Z"),
            ("digest", "5eed5eed5eed5eed5eed"),
        ] {
            assert!(!is_secret(key, value), "{key} {value}");
        }
    }
}
