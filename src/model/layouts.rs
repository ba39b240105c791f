//! Folders as other programs lay them out: MLflow's models and Triton's repository.
//!
//! In: the text of `MLmodel` or `config.pbtxt`. Out: what it says of the ONNX file, no more. Both languages are read as far as the programs
//! that write these files go; what a person wrote beyond that is refused with its place rather than guessed at.

/// Deepest nesting of blocks that is followed.
const MOST_NESTED: usize = 64;

/// The file that an MLflow model's flavour `onnx` names, relative to its folder; <https://mlflow.org/docs/latest/ml/model/>.
///
/// # Errors
/// In words: it has no such flavour, or is not written as MLflow writes it.
pub(super) fn mlflow_data(text: &str) -> Result<String, String> {
    let mut path: Vec<(usize, String)> = Vec::new();
    let mut flavours = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let content = line.trim_start();
        if content.is_empty() || content.starts_with('#') || content == "---" {
            continue;
        }
        let indent = line.len() - content.len();
        path.retain(|(outer, _)| *outer < indent);
        // Items of lists and the rest of long texts name no field.
        let Some((key, value)) = content.split_once(':').filter(|(key, value)| is_key(key) && (value.is_empty() || value.starts_with(' ')))
        else {
            continue;
        };
        let names: Vec<&str> = path.iter().map(|(_, name)| name.as_str()).collect();
        match names.as_slice() {
            ["flavors"] => flavours.push(key.to_owned()),
            ["flavors", "onnx"] if key == "data" => {
                let value = value.trim();
                let plain = value.trim_matches(['\'', '"']);
                if plain.is_empty() || plain.starts_with(['{', '[', '&', '*', '|', '>', '!']) {
                    return Err(format!("line {}: flavors.onnx.data is {value:?} and names no file", number + 1));
                }
                return Ok(plain.to_owned());
            }
            _ => {}
        }
        path.push((indent, key.to_owned()));
    }
    match flavours.iter().any(|flavour| flavour == "onnx") {
        true => Err("its flavour onnx names no file in data".to_owned()),
        false if flavours.is_empty() => Err("it lists no flavours".to_owned()),
        false => Err(format!("its flavours are {}, and onnx is none of them", flavours.join(", "))),
    }
}

fn is_key(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
}

/// What a Triton model's configuration says of its file and of its versions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Triton {
    /// The file in each version's folder.
    pub(super) file: String,
    /// Only these versions, where it says so.
    pub(super) versions: Option<Vec<u64>>,
}

impl Default for Triton {
    fn default() -> Self {
        Self { file: "model.onnx".to_owned(), versions: None }
    }
}

impl Triton {
    /// Reads a `config.pbtxt`;
    /// <https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/user_guide/model_configuration.html>.
    ///
    /// # Errors
    /// In words: it is for no ONNX model, or is not the text form of protobuf.
    pub(super) fn read(text: &str) -> Result<Self, String> {
        let config = Parser { tokens: tokens(text)?, at: 0 }.fields(0)?;
        for (field, wanted) in [("platform", "onnxruntime_onnx"), ("backend", "onnxruntime")] {
            match scalar(&config, field) {
                Some(found) if !found.is_empty() && found != wanted => return Err(format!("its {field} is {found:?} and not {wanted:?}")),
                _ => {}
            }
        }
        let file = scalar(&config, "default_model_filename").filter(|name| !name.is_empty()).unwrap_or("model.onnx");
        if file.contains('/') {
            return Err(format!("its default_model_filename {file:?} is no name of a file"));
        }
        let specific = block(&config, "version_policy").and_then(|policy| block(policy, "specific"));
        let versions = specific.map(|specific| {
            let numbers = specific.iter().filter(|(name, _)| name == "versions").flat_map(|(_, value)| value.scalars());
            numbers.map(|text| text.parse::<u64>().map_err(|_| format!("version_policy.specific: {text:?} is no version"))).collect()
        });
        Ok(Self { file: file.to_owned(), versions: versions.transpose()? })
    }
}

type Fields = Vec<(String, Node)>;

#[derive(Debug, PartialEq)]
enum Node {
    Scalar(String),
    Block(Fields),
    List(Vec<Node>),
}

impl Node {
    fn scalars(&self) -> Vec<&str> {
        match self {
            Self::Scalar(text) => vec![text],
            Self::List(items) => items.iter().flat_map(Self::scalars).collect(),
            Self::Block(_) => Vec::new(),
        }
    }
}

fn scalar<'f>(fields: &'f Fields, name: &str) -> Option<&'f str> {
    fields.iter().find_map(|(found, value)| match value {
        Node::Scalar(text) if found == name => Some(text.as_str()),
        _ => None,
    })
}

fn block<'f>(fields: &'f Fields, name: &str) -> Option<&'f Fields> {
    fields.iter().find_map(|(found, value)| match value {
        Node::Block(fields) if found == name => Some(fields),
        _ => None,
    })
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Mark(char),
    Word(String),
    Text(String),
}

/// The tokens of protobuf's text form, without comments and without the commas and semicolons that may stand between fields.
fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '#' => while rest.next_if(|c| *c != '\n').is_some() {},
            '{' | '}' | '[' | ']' | ':' | '<' | '>' => tokens.push(Token::Mark(c)),
            '"' | '\'' => {
                let mut value = String::new();
                loop {
                    match rest.next() {
                        Some(end) if end == c => break,
                        Some('\\') => value.extend(rest.next()),
                        Some(other) => value.push(other),
                        None => return Err("a text is not closed".to_owned()),
                    }
                }
                tokens.push(Token::Text(value));
            }
            c if c.is_whitespace() || matches!(c, ',' | ';') => {}
            c if c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '+') => {
                let mut word = String::from(c);
                while let Some(c) = rest.next_if(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '+')) {
                    word.push(c);
                }
                tokens.push(Token::Word(word));
            }
            other => return Err(format!("{other:?} has no meaning there")),
        }
    }
    Ok(tokens)
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
}

impl Parser {
    fn next(&mut self) -> Option<Token> {
        let token = self.tokens.get(self.at).cloned();
        self.at += 1;
        token
    }

    fn takes(&mut self, mark: char) -> bool {
        let is = self.tokens.get(self.at) == Some(&Token::Mark(mark));
        self.at += usize::from(is);
        is
    }

    /// Fields up to the end of their block, or of the text at depth 0.
    fn fields(&mut self, depth: usize) -> Result<Fields, String> {
        let mut fields = Vec::new();
        loop {
            match self.next() {
                None if depth == 0 => return Ok(fields),
                Some(Token::Mark('}' | '>')) if depth > 0 => return Ok(fields),
                Some(Token::Word(name)) => {
                    let colon = self.takes(':');
                    let value = self.value(depth)?;
                    if !colon && matches!(value, Node::Scalar(_)) {
                        return Err(format!("a colon is missing after {name}"));
                    }
                    fields.push((name, value));
                }
                Some(token) => return Err(format!("a field is wanted, and {token:?} stands there")),
                None => return Err("a block is not closed".to_owned()),
            }
        }
    }

    fn value(&mut self, depth: usize) -> Result<Node, String> {
        if depth > MOST_NESTED {
            return Err(format!("it is nested more than {MOST_NESTED} deep"));
        }
        match self.next() {
            Some(Token::Mark('{' | '<')) => self.fields(depth + 1).map(Node::Block),
            Some(Token::Mark('[')) => {
                let mut items = Vec::new();
                while !self.takes(']') {
                    items.push(self.value(depth + 1)?);
                }
                Ok(Node::List(items))
            }
            Some(Token::Word(text)) => Ok(Node::Scalar(text)),
            Some(Token::Text(mut text)) => {
                // Texts side by side are one.
                while let Some(Token::Text(more)) = self.tokens.get(self.at) {
                    text += more;
                    self.at += 1;
                }
                Ok(Node::Scalar(text))
            }
            other => Err(format!("a value is wanted, and {other:?} stands there")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MLMODEL: &str = "artifact_path: model\nflavors:\n  onnx:\n    code: null\n    data: model.onnx\n    onnx_version: 1.19.0\n    \
                           providers:\n    - CUDAExecutionProvider\n    - CPUExecutionProvider\n  python_function:\n    data: other.onnx\n    \
                           env:\n      conda: conda.yaml\n    loader_module: mlflow.onnx\nmlflow_version: 3.4.0\nsignature:\n  inputs: '[{\"type\": \
                           \"tensor\"}]'\nutc_time_created: '2026-11-23 02:00:00.123456'\n";

    #[test]
    fn mlflow_names_the_file_of_its_flavour() {
        assert_eq!(mlflow_data(MLMODEL).unwrap(), "model.onnx");
        assert_eq!(mlflow_data("flavors:\n    onnx:\n        data: \"my model.onnx\"\n").unwrap(), "my model.onnx");
        for (text, word) in [
            ("flavors:\n  sklearn:\n    pickled_model: model.pkl\n  python_function:\n    data: x\n", "sklearn, python_function"),
            ("flavors:\n  onnx:\n    onnx_version: 1\n", "names no file"),
            ("flavors:\n  onnx:\n    data: {a: b}\n", "line 3"),
            ("run_id: 7\n", "no flavours"),
        ] {
            let error = mlflow_data(text).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
    }

    #[test]
    fn triton_says_which_file_and_which_versions() {
        let config = "name: \"fraud\"\nplatform: \"onnxruntime_onnx\" # as ever\nmax_batch_size: 0\ninput [ { name: \"x\", data_type: TYPE_FP32, \
                      dims: [ -1, 4 ] } ]\ninstance_group { count: 1 kind: KIND_CPU }\nversion_policy: { specific: { versions: [1, 3] } }";
        assert_eq!(Triton::read(config).unwrap(), Triton { versions: Some(vec![1, 3]), ..Triton::default() });
        let other = "backend: 'onnxruntime'; default_model_filename: \"m\" \"odel-2.onnx\"\nversion_policy { specific { versions: 2 versions: 5 } }";
        assert_eq!(Triton::read(other).unwrap(), Triton { file: "model-2.onnx".to_owned(), versions: Some(vec![2, 5]) });
        assert_eq!(Triton::read("version_policy: { latest { num_versions: 2 } }").unwrap(), Triton::default());
        for (text, word) in [
            ("platform: \"tensorrt_plan\"", "tensorrt_plan"),
            ("backend: \"python\"", "python"),
            ("name \"x\"", "colon"),
            ("input [ {", "not closed"),
            ("input [ { ]", "stands there"),
            ("name: \"x", "not closed"),
            ("default_model_filename: \"../x.onnx\"", "no name of a file"),
            ("version_policy { specific { versions: [one] } }", "no version"),
            (&"a {".repeat(100), "nested"),
        ] {
            let error = Triton::read(text).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
