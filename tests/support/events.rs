//! A client of streams of events, which can be cut off at any moment.

use serde_json::Value;

use super::Service;

/// What came.
#[derive(Debug, Clone, PartialEq)]
pub enum Told {
    /// An event `state`: its id, and the state.
    State(i64, String, Value),
    /// An event `progress`.
    Progress(Value),
    /// A sign of life.
    Comment,
}

impl Told {
    pub fn state(&self) -> Option<&str> {
        match self {
            Self::State(_, state, _) => Some(state),
            _ => None,
        }
    }
}

/// An open stream.
pub struct Stream {
    answer: reqwest::Response,
    text: String,
}

/// Asks for a stream; the answer as it is.
pub async fn ask(service: &Service, path: &str, after: Option<&str>) -> reqwest::Response {
    // The harness's own client gives up on an answer that takes long.
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let mut request = client.get(service.url(path));
    if let Some(id) = after {
        request = request.header("last-event-id", id);
    }
    request.send().await.expect("an answer")
}

impl Stream {
    /// A stream that must be had.
    pub async fn open(service: &Service, path: &str, after: Option<i64>) -> Self {
        let answer = ask(service, path, after.map(|id| id.to_string()).as_deref()).await;
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        Self { answer, text: String::new() }
    }

    /// What comes next; `None` when the stream ended as it should, an error when it broke.
    pub async fn next(&mut self) -> Result<Option<Told>, reqwest::Error> {
        loop {
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let told = told(block);
                self.text = rest.to_owned();
                return Ok(Some(told));
            }
            match self.answer.chunk().await? {
                Some(bytes) => self.text.push_str(std::str::from_utf8(&bytes).expect("UTF-8")),
                None => return Ok(None),
            }
        }
    }

    /// Everything up to the end.
    pub async fn rest(mut self) -> Vec<Told> {
        let mut all = Vec::new();
        while let Some(told) = self.next().await.expect("a stream that does not break") {
            all.push(told);
        }
        assert_eq!(self.text, "", "a whole number of events");
        all
    }

    /// What comes up to an event that is wanted, which is the last of it.
    pub async fn until(&mut self, wanted: impl Fn(&Told) -> bool) -> Vec<Told> {
        let mut all = Vec::new();
        loop {
            let told = self.next().await.expect("a stream that does not break").expect("a stream that goes on");
            all.push(told.clone());
            if wanted(&told) {
                return all;
            }
        }
    }
}

fn told(block: &str) -> Told {
    let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let data = || serde_json::from_str::<Value>(field("data:").expect("data")).expect("JSON");
    match field("event:") {
        Some("state") => {
            let (data, id) = (data(), field("id:").and_then(|id| id.parse().ok()).expect("a number"));
            Told::State(id, data["state"].as_str().expect("a state").to_owned(), data)
        }
        Some("progress") => {
            assert_eq!(field("id:"), None, "progress has no number");
            Told::Progress(data())
        }
        Some(other) => panic!("{other}: {block}"),
        None => {
            assert!(block.starts_with(':'), "{block}");
            Told::Comment
        }
    }
}

/// The states in a stream.
pub fn states(told: &[Told]) -> Vec<&str> {
    told.iter().filter_map(Told::state).collect()
}
