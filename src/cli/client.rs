//! A client of the API: requests, and problems as errors that can be read.

use reqwest::StatusCode;
use serde_json::Value;
use url::Url;

use super::{show, sse::Events, stop::Stop};
use crate::config::{Api, Form};

/// A client of one service.
#[derive(Debug)]
pub(super) struct Client {
    http: reqwest::Client,
    base: Url,
    form: Form,
}

/// A request to a path of the service, not yet sent.
#[derive(Debug)]
pub(super) struct Request {
    http: reqwest::RequestBuilder,
    what: String,
}

impl Request {
    pub(super) fn header(mut self, name: &'static str, value: &str) -> Self {
        self.http = self.http.header(name, value);
        self
    }

    pub(super) fn body(mut self, body: &Value) -> Self {
        self.http = self.http.json(body);
        self
    }
}

/// Why there is no answer to go on with.
#[derive(Debug)]
pub(super) enum Trouble {
    /// Nobody answers, or says that it cannot at the moment: trying again may help.
    Away(String),
    /// A problem, or an answer that is none of the API's.
    Refused(Stop),
}

/// What came of asking for a stream of events.
#[derive(Debug)]
pub(super) enum Opened {
    /// It is open.
    Stream(Box<Events>),
    /// There is no such thing: no such job, or a service of an older version.
    Nothing,
    /// There is nothing left to tell, no room for a stream, or no answer.
    NotNow,
}

impl From<Trouble> for Stop {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Away(message) => message.into(),
            Trouble::Refused(stop) => stop,
        }
    }
}

impl Client {
    /// `form` says whether a problem is also shown as the JSON that it is.
    pub(super) fn new(api: &Api, form: Form) -> Result<Self, Stop> {
        if !matches!(api.api.scheme(), "http" | "https") || api.api.cannot_be_a_base() {
            return Err(Stop::usage(format!("--api {}: write a URL such as http://127.0.0.1:8080", api.api)));
        }
        let http = reqwest::Client::builder().no_proxy().user_agent(concat!("nightshift/", env!("CARGO_PKG_VERSION"))).build();
        Ok(Self { http: http.map_err(|e| e.to_string())?, base: api.api.clone(), form })
    }

    /// The address of a path of the service; a whole URL stays as it is.
    pub(super) fn url(&self, path: &str) -> Result<Url, Stop> {
        let text = if path.starts_with('/') { format!("{}{path}", self.base.as_str().trim_end_matches('/')) } else { path.to_owned() };
        text.parse().map_err(|e| format!("{text}: {e}").into())
    }

    pub(super) fn get(&self, path: &str, query: &[(String, String)]) -> Result<Request, Stop> {
        self.request(reqwest::Method::GET, path, query)
    }

    pub(super) fn post(&self, path: &str, query: &[(String, String)]) -> Result<Request, Stop> {
        self.request(reqwest::Method::POST, path, query)
    }

    pub(super) fn put(&self, path: &str) -> Result<Request, Stop> {
        self.request(reqwest::Method::PUT, path, &[])
    }

    pub(super) fn delete(&self, path: &str) -> Result<Request, Stop> {
        self.request(reqwest::Method::DELETE, path, &[])
    }

    fn request(&self, method: reqwest::Method, path: &str, query: &[(String, String)]) -> Result<Request, Stop> {
        let mut url = self.url(path)?;
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        Ok(Request { what: format!("{method} {path}"), http: self.http.request(method, url) })
    }

    /// The answer's JSON.
    pub(super) async fn send(&self, request: Request) -> Result<Value, Trouble> {
        let Request { http, what } = request;
        let answer = http.send().await.map_err(|e| self.away(&e))?;
        let status = answer.status();
        let bytes = answer.bytes().await.map_err(|e| self.away(&e))?;
        let body: Option<Value> = serde_json::from_slice(&bytes).ok();
        match body {
            Some(body) if status.is_success() => Ok(body),
            None if status == reqwest::StatusCode::NO_CONTENT => Ok(Value::Null),
            Some(problem) if problem.get("title").is_some() => {
                let message = describe(&problem);
                if matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
                    return Err(Trouble::Away(message));
                }
                if self.form == Form::Json {
                    show::print_json(&problem).map_err(Trouble::Refused)?;
                }
                Err(Trouble::Refused(message.into()))
            }
            _ => Err(Trouble::Refused(
                format!("{} answered {what} with {status} and no JSON of this API: is it a Nightshift service?", self.base).into(),
            )),
        }
    }

    /// Opens a stream of events, after the one with this id.
    pub(super) async fn events(&self, path: &str, after: Option<&str>) -> Result<Opened, Stop> {
        let Request { mut http, .. } = self.get(path, &[])?;
        if let Some(id) = after {
            http = http.header("Last-Event-ID", id);
        }
        Ok(match http.header("Accept", "text/event-stream").send().await {
            Ok(answer) if answer.status() == StatusCode::OK => Opened::Stream(Box::new(Events::of(answer))),
            Ok(answer) if answer.status() == StatusCode::NOT_FOUND => Opened::Nothing,
            _ => Opened::NotNow,
        })
    }

    /// The body of a URL that a list of results gave, as it comes.
    pub(super) async fn download(&self, url: Url) -> Result<reqwest::Response, Stop> {
        let shown = url.path().to_owned();
        let answer = self.http.get(url).send().await.and_then(reqwest::Response::error_for_status);
        // The query of a presigned URL is a secret.
        answer.map_err(|e| format!("{shown} cannot be fetched: {}", chain(&e.without_url())).into())
    }

    fn away(&self, error: &reqwest::Error) -> Trouble {
        let advice = "start one with `nightshift serve`, or name it with --api (NIGHTSHIFT_API)";
        let url = self.base.as_str().trim_end_matches('/');
        Trouble::Away(match error.is_connect() {
            true => format!("no service answers at {url} ({}); {advice}", chain(error)),
            false => format!("the service at {url} did not answer: {}", chain(error)),
        })
    }
}

/// The innermost reason: the outer ones repeat the URL.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(inner) = last.source() {
        last = inner;
    }
    last.to_string()
}

/// A problem (RFC 9457) for people: title and detail, then a line a fault.
pub(super) fn describe(problem: &Value) -> String {
    let part = |name: &str| problem[name].as_str().unwrap_or_default();
    let faults = problem["errors"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut text = part("title").to_owned();
    // With the faults below, "2 faults, see errors" says nothing.
    if faults.is_empty() && !part("detail").is_empty() {
        text = format!("{text}: {}", part("detail"));
    }
    for fault in faults {
        let part = |name: &str| fault[name].as_str().unwrap_or_default();
        let pointer = if part("pointer").is_empty() { "the request" } else { part("pointer") };
        text += &format!("\n  {pointer}: {}", part("detail"));
        if !part("hint").is_empty() {
            text += &format!(" ({})", part("hint"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_problem_reads_as_a_sentence_and_a_line_a_fault() {
        let problem = json!({"title": "The request has faults", "detail": "2 faults, see errors", "errors": [
            {"pointer": "/input/format", "code": "unknown_value", "detail": "\"parqet\" is none of auto, parquet", "hint": "did you mean \"parquet\"?"},
            {"pointer": "", "code": "x", "detail": "no body"},
        ]});
        let wanted = "The request has faults\n  /input/format: \"parqet\" is none of auto, parquet (did you mean \"parquet\"?)\n  the request: no body";
        assert_eq!(describe(&problem), wanted);
        assert_eq!(describe(&json!({"title": "Gone", "detail": "job_1 is away"})), "Gone: job_1 is away");
    }
}
