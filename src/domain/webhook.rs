//! Webhooks: what can be told, and who is told.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use url::{Host, Url};

use super::job::JobState;

/// Longest URL of a receiver, bytes.
pub const LONGEST_URL: usize = 2048;
/// What every secret begins with (Standard Webhooks).
const SECRET_PREFIX: &str = "whsec_";
/// How many bytes a secret's key may have (Standard Webhooks).
const KEY_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// What a receiver can hear of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EventKind {
    /// Its first chunk was claimed.
    Started,
    /// It ended with every record's outcome.
    Completed,
    /// It ended with an error.
    Failed,
    /// It ended on request.
    Cancelled,
    /// It ended by its deadline.
    Expired,
    /// It is farther from an earlier job than its threshold.
    Drift,
}

impl EventKind {
    /// Every kind.
    pub const ALL: [EventKind; 6] = [Self::Started, Self::Completed, Self::Failed, Self::Cancelled, Self::Expired, Self::Drift];
    /// How a job can end: what is told when nothing else is asked for.
    pub const ENDS: [EventKind; 4] = [Self::Completed, Self::Failed, Self::Cancelled, Self::Expired];

    /// The `type` of its messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Started => "job.started",
            Self::Completed => "job.completed",
            Self::Failed => "job.failed",
            Self::Cancelled => "job.cancelled",
            Self::Expired => "job.expired",
            Self::Drift => "job.drift",
        }
    }

    /// Reads what [`EventKind::name`] wrote.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == text)
    }

    /// What reaching this state tells; nothing for states on the way.
    pub fn of_state(state: JobState) -> Option<Self> {
        match state {
            JobState::Completed => Some(Self::Completed),
            JobState::Failed => Some(Self::Failed),
            JobState::Cancelled => Some(Self::Cancelled),
            JobState::Expired => Some(Self::Expired),
            _ => None,
        }
    }
}

impl Serialize for EventKind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for EventKind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| D::Error::custom(format!("there is no event {text:?}")))
    }
}

/// Why a text is no address of a receiver. Never repeats the text: it may hold a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// It does not parse.
    #[error("this is no URL: {0}")]
    Malformed(url::ParseError),
    /// Neither `http` nor `https`.
    #[error("the scheme is {0}; webhooks go to http and https")]
    Scheme(String),
    /// `user:password@`.
    #[error("the URL holds a user name or a password")]
    UserInfo,
    /// `#…`, which no request carries.
    #[error("the URL ends in a fragment (#…), which no request carries")]
    Fragment,
    /// It is longer than [`LONGEST_URL`].
    #[error("the URL has more than {LONGEST_URL} bytes")]
    TooLong,
}

/// Where a receiver listens: `http` or `https`, a host, no user name, no fragment; as the URL standard normalises it, so that
/// `http://0x7f.1/` is `http://127.0.0.1/` here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct WebhookUrl(Url);

impl WebhookUrl {
    /// Reads an address.
    ///
    /// # Errors
    /// [`UrlError`] with what is wrong.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        if text.len() > LONGEST_URL {
            return Err(UrlError::TooLong);
        }
        let url = Url::parse(text).map_err(UrlError::Malformed)?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(UrlError::Scheme(url.scheme().to_owned()));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(UrlError::UserInfo);
        }
        match url.fragment() {
            Some(_) => Err(UrlError::Fragment),
            None => Ok(Self(url)),
        }
    }

    /// The URL.
    pub fn as_url(&self) -> &Url {
        &self.0
    }

    /// Its host, literal addresses in their canonical form.
    pub fn host(&self) -> Host<&str> {
        self.0.host().expect("http and https URLs have a host")
    }

    /// `host:port`: deliveries to one receiver share its limits.
    pub fn receiver(&self) -> String {
        format!("{}:{}", self.host(), self.0.port_or_known_default().unwrap_or_default())
    }
}

impl std::fmt::Display for WebhookUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl<'de> Deserialize<'de> for WebhookUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

/// Why a text is no secret. Never repeats the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// It does not begin with `whsec_`.
    #[error("a secret begins with whsec_")]
    Prefix,
    /// What follows is no base64.
    #[error("what follows whsec_ must be base64 with its padding")]
    Base64,
    /// The key is too short or too long.
    #[error("the key has {0} bytes; Standard Webhooks allows 24 to 64")]
    Length(usize),
}

/// `whsec_` and a key in base64 (Standard Webhooks). Shown to nobody: `Debug` is redacted, and there is no `Display`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WebhookSecret(String);

impl WebhookSecret {
    /// What is shown in a secret's stead.
    pub const REDACTED: &'static str = "whsec_***";

    /// Reads a secret.
    ///
    /// # Errors
    /// [`SecretError`] with what is wrong.
    pub fn parse(text: &str) -> Result<Self, SecretError> {
        let encoded = text.strip_prefix(SECRET_PREFIX).ok_or(SecretError::Prefix)?;
        let key = STANDARD.decode(encoded).map_err(|_| SecretError::Base64)?;
        if !KEY_BYTES.contains(&key.len()) {
            return Err(SecretError::Length(key.len()));
        }
        Ok(Self(text.to_owned()))
    }

    /// The key that signs.
    pub fn key(&self) -> Vec<u8> {
        let encoded = self.0.strip_prefix(SECRET_PREFIX).unwrap_or_default();
        STANDARD.decode(encoded).expect("checked when it was read")
    }
}

impl std::fmt::Debug for WebhookSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(Self::REDACTED)
    }
}

/// Whom a job tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WebhookSpec {
    /// Where it listens.
    pub url: WebhookUrl,
    /// Signs what it is told.
    pub secret: WebhookSecret,
    /// What it wants to hear.
    pub events: Vec<EventKind>,
}

/// A receiver of the configuration: it hears of every job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Names it in deliveries, so that a new URL or secret holds for deliveries that wait.
    pub name: String,
    /// Where it listens.
    pub url: WebhookUrl,
    /// What it wants to hear.
    pub events: Vec<EventKind>,
    /// All of them sign: the present one first, while it is being changed the previous one as well.
    pub secrets: Vec<WebhookSecret>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_what_standard_webhooks_says() {
        let secret = |bytes: usize| format!("whsec_{}", STANDARD.encode(vec![7; bytes]));
        for bytes in [24, 32, 64] {
            let parsed = WebhookSecret::parse(&secret(bytes)).unwrap();
            assert_eq!(parsed.key(), vec![7; bytes]);
            assert_eq!(format!("{parsed:?}"), "whsec_***");
        }
        assert_eq!(WebhookSecret::parse(&secret(23)), Err(SecretError::Length(23)));
        assert_eq!(WebhookSecret::parse(&secret(65)), Err(SecretError::Length(65)));
        assert_eq!(WebhookSecret::parse("whsec_no base64"), Err(SecretError::Base64));
        assert_eq!(WebhookSecret::parse(secret(32).trim_start_matches("whsec_")), Err(SecretError::Prefix));
        assert_eq!(WebhookSecret::parse(WebhookSecret::REDACTED), Err(SecretError::Base64));
    }

    #[test]
    fn a_url_is_read_to_the_host_that_would_be_called() {
        for (text, receiver) in [
            ("https://Hooks.Example/x?y=z", "hooks.example:443"),
            ("http://2130706433/", "127.0.0.1:80"),
            ("http://0x7f.1:8080/", "127.0.0.1:8080"),
            ("http://①②⑦.0.0.1/", "127.0.0.1:80"),
            ("http://[0:0:0:0:0:ffff:7f00:1]/", "[::ffff:7f00:1]:80"),
        ] {
            assert_eq!(WebhookUrl::parse(text).unwrap().receiver(), receiver, "{text}");
        }
        for text in
            ["ftp://x/", "https://u:p@x/", "https://u@x/", "https://x/#f", "https://", "x", "https://[::1%25lo]/", "http://1.2.3.4.5/"]
        {
            let error = WebhookUrl::parse(text).unwrap_err();
            assert!(!error.to_string().contains("p@"), "{text}: {error}");
        }
    }
}
