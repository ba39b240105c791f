//! `/v2`: the Open Inference Protocol over registered models, to try one out with a few records.
//!
//! <https://github.com/kserve/open-inference-protocol>: health, metadata and inference, tensors in JSON. The model runs in a runner of its
//! own, which ends with the answer: this is no server for requests that cannot wait, and refuses more records than a person looks at.

use axum::{
    Json,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use futures::TryStreamExt;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::{
    ApiState, health,
    problem::{ApiProblem, say_when_to_retry},
    request::PathOf,
};
use crate::{
    domain::{
        Dim, Problem, ValueInfo,
        registry::{ModelVersion, Name, Which},
    },
    runner::{INFERENCE_FAILED, INVALID_TENSOR, protocol::InferInput},
};

/// Most records of a request.
const MOST_RECORDS: u64 = 64;
/// Largest body of a request: 64 records of tensors as JSON can be much larger than a job definition.
const MOST_BYTES: usize = 24 * 1024 * 1024;

/// An error as the protocol writes it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct V2Error {
    /// What is wrong, and what to do about it.
    error: String,
    #[serde(skip)]
    #[schema(ignore)]
    status: u16,
}

impl V2Error {
    fn new(status: StatusCode, error: impl Into<String>) -> Self {
        Self { error: error.into(), status: status.as_u16() }
    }

    fn bad(error: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error)
    }
}

impl From<ApiProblem> for V2Error {
    fn from(problem: ApiProblem) -> Self {
        Self { error: format!("{}: {}", problem.title, problem.detail), status: problem.status }
    }
}

impl From<crate::db::Error> for V2Error {
    fn from(error: crate::db::Error) -> Self {
        ApiProblem::from(error).into()
    }
}

impl IntoResponse for V2Error {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(self)).into_response();
        say_when_to_retry(&mut response);
        response
    }
}

/// What this server is.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ServerMetadata {
    /// `nightshift`.
    name: &'static str,
    /// The version that runs.
    version: &'static str,
    /// Extensions of the protocol: none.
    extensions: Vec<String>,
}

/// Whether something is so.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Live {
    /// True.
    live: bool,
}

/// Whether something is so.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Ready {
    /// True, or the status is another than 200.
    ready: bool,
}

/// What a model takes and gives.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ModelMetadata {
    /// As it is registered.
    #[schema(example = "fraud")]
    name: String,
    /// The version that this is about.
    #[schema(example = json!(["3"]))]
    versions: Vec<String>,
    /// `onnxruntime_onnx`.
    platform: &'static str,
    /// What a caller must give.
    inputs: Vec<TensorMetadata>,
    /// What the model gives, as far as that is tensors.
    outputs: Vec<TensorMetadata>,
}

/// A tensor of a model.
#[derive(Debug, Serialize, ToSchema)]
struct TensorMetadata {
    /// As the model names it.
    name: String,
    /// Such as `FP32`.
    datatype: &'static str,
    /// As the model declares it; −1 stands for a size that is not fixed.
    shape: Vec<i64>,
}

impl TensorMetadata {
    /// `None` of what is no tensor.
    fn of(value: &ValueInfo) -> Option<Self> {
        let (dtype, shape) = value.tensor()?;
        let size = |dim: &Dim| dim.fixed().and_then(|n| i64::try_from(n).ok()).unwrap_or(-1);
        Some(Self { name: value.name.clone(), datatype: dtype.name(), shape: shape.iter().map(size).collect() })
    }
}

/// Tensors for a model.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct InferenceRequest {
    /// Comes back in the answer.
    id: Option<String>,
    /// A tensor for every input of the model; the first dimension of all counts the records, 64 at most.
    inputs: Vec<InputTensor>,
    /// Only these outputs; all that are tensors when absent.
    outputs: Option<Vec<WantedOutput>>,
}

/// A tensor that is given.
#[derive(Debug, Deserialize, ToSchema)]
struct InputTensor {
    /// The model's input.
    #[schema(example = "input")]
    name: String,
    /// Its dimensions.
    #[schema(example = json!([1, 4]))]
    shape: Vec<usize>,
    /// That of the input, such as `FP32`.
    #[schema(example = "FP32")]
    datatype: String,
    /// Its elements, flat or nested, row-major.
    #[schema(value_type = Vec<serde_json::Value>, example = json!([5.1, 3.5, 1.4, 0.2]))]
    data: Box<RawValue>,
}

/// An output that is asked for.
#[derive(Debug, Deserialize, ToSchema)]
struct WantedOutput {
    /// The model's output.
    name: String,
}

/// What the model gave.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct InferenceResponse {
    /// As it is registered.
    model_name: String,
    /// The version that ran.
    #[schema(example = "3")]
    model_version: String,
    /// As it was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    /// The outputs that are tensors.
    outputs: Vec<OutputTensor>,
    /// What else there is to say.
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<ResponseParameters>,
}

/// What else there is to say.
#[derive(Debug, Serialize, ToSchema)]
struct ResponseParameters {
    /// Names of outputs that are no tensors, separated by commas: the protocol has no form for them.
    outputs_left_out: String,
}

/// A tensor that was given.
#[derive(Debug, Serialize, ToSchema)]
struct OutputTensor {
    /// The model's output.
    name: String,
    /// Such as `FP32`.
    datatype: String,
    /// Its dimensions; the first counts the records.
    shape: Vec<usize>,
    /// Its elements, flat, row-major; null for what JSON has no number for.
    #[schema(value_type = Vec<serde_json::Value>)]
    data: Box<RawValue>,
}

/// What this server is
#[utoipa::path(get, path = "/v2", tag = "open inference protocol", responses((status = 200, description = "Its name and version", body = ServerMetadata, example = json!({"name": "nightshift", "version": "0.1.0", "extensions": []}))))]
pub(super) async fn server() -> Json<ServerMetadata> {
    Json(ServerMetadata { name: "nightshift", version: env!("CARGO_PKG_VERSION"), extensions: Vec::new() })
}

/// Whether the server is alive
#[utoipa::path(get, path = "/v2/health/live", tag = "open inference protocol", responses((status = 200, description = "It is", body = Live, example = json!({"live": true}))))]
pub(super) async fn live() -> Json<Live> {
    Json(Live { live: true })
}

/// Whether the server can be asked
#[utoipa::path(
    get, path = "/v2/health/ready", tag = "open inference protocol",
    responses((status = 200, description = "It can", body = Ready, example = json!({"ready": true})), (status = 503, description = "It cannot, and why", body = V2Error))
)]
pub(super) async fn ready(State(state): State<ApiState>) -> Result<Json<Ready>, V2Error> {
    let Json(_ok) = health::ready(State(state)).await?;
    Ok(Json(Ready { ready: true }))
}

/// What a model takes and gives
///
/// Its newest version.
#[utoipa::path(
    get, path = "/v2/models/{name}", tag = "open inference protocol",
    params(("name" = String, Path, description = "A registered model", example = "fraud")),
    responses((status = 200, description = "Its metadata", body = ModelMetadata, example = json!({"name": "fraud", "versions": ["3"], "platform": "onnxruntime_onnx", "inputs": [{"name": "input", "datatype": "FP32", "shape": [-1, 2]}], "outputs": [{"name": "probabilities", "datatype": "FP32", "shape": [-1, 2]}]})), (status = 404, description = "No such model", body = V2Error))
)]
pub(super) async fn metadata(State(state): State<ApiState>, PathOf(name): PathOf<String>) -> Result<Json<ModelMetadata>, V2Error> {
    Ok(Json(describe(&find(&state, &name, None).await?)))
}

/// What a version of a model takes and gives
#[utoipa::path(
    get, path = "/v2/models/{name}/versions/{version}", tag = "open inference protocol",
    params(
        ("name" = String, Path, description = "A registered model", example = "fraud"),
        ("version" = String, Path, description = "A version, or an alias", example = "production"),
    ),
    responses((status = 200, description = "Its metadata", body = ModelMetadata, example = json!({"name": "fraud", "versions": ["3"], "platform": "onnxruntime_onnx", "inputs": [{"name": "input", "datatype": "FP32", "shape": [-1, 2]}], "outputs": [{"name": "probabilities", "datatype": "FP32", "shape": [-1, 2]}]})), (status = 404, description = "No such version", body = V2Error))
)]
pub(super) async fn version_metadata(
    State(state): State<ApiState>,
    PathOf((name, version)): PathOf<(String, String)>,
) -> Result<Json<ModelMetadata>, V2Error> {
    Ok(Json(describe(&find(&state, &name, Some(&version)).await?)))
}

/// Whether a model can be asked
#[utoipa::path(
    get, path = "/v2/models/{name}/ready", tag = "open inference protocol",
    params(("name" = String, Path, description = "A registered model", example = "fraud")),
    responses((status = 200, description = "It can", body = Ready, example = json!({"ready": true})), (status = 404, description = "No such model", body = V2Error))
)]
pub(super) async fn model_ready(State(state): State<ApiState>, PathOf(name): PathOf<String>) -> Result<Json<Ready>, V2Error> {
    find(&state, &name, None).await?;
    Ok(Json(Ready { ready: true }))
}

/// Whether a version of a model can be asked
#[utoipa::path(
    get, path = "/v2/models/{name}/versions/{version}/ready", tag = "open inference protocol",
    params(
        ("name" = String, Path, description = "A registered model", example = "fraud"),
        ("version" = String, Path, description = "A version, or an alias", example = "production"),
    ),
    responses((status = 200, description = "It can", body = Ready, example = json!({"ready": true})), (status = 404, description = "No such version", body = V2Error))
)]
pub(super) async fn version_ready(
    State(state): State<ApiState>,
    PathOf((name, version)): PathOf<(String, String)>,
) -> Result<Json<Ready>, V2Error> {
    find(&state, &name, Some(&version)).await?;
    Ok(Json(Ready { ready: true }))
}

/// Try a model out
///
/// Puts tensors into the newest version as they are, with no pipeline around it: 64 records at most, in a process that loads the model for
/// this request alone. Four such requests are answered at once. More is work for a job.
#[utoipa::path(
    post, path = "/v2/models/{name}/infer", tag = "open inference protocol",
    params(("name" = String, Path, description = "A registered model", example = "fraud")),
    request_body(content = InferenceRequest, example = json!({"id": "7", "inputs": [{"name": "input", "shape": [1, 2], "datatype": "FP32", "data": [12.5, 41]}]})),
    responses(
        (status = 200, description = "The outputs", body = InferenceResponse, example = json!({"model_name": "fraud", "model_version": "3", "id": "7", "outputs": [{"name": "probabilities", "datatype": "FP32", "shape": [1, 2], "data": [0.98, 0.02]}]})),
        (status = 400, description = "The tensors are not what the model takes, or too many", body = V2Error),
        (status = 404, description = "No such model", body = V2Error),
        (status = 413, description = "The body is too large", body = V2Error),
        (status = 429, description = "Too many models are being tried out; `Retry-After` says when to try again", body = V2Error),
        (status = 500, description = "The model does not run", body = V2Error),
        (status = 503, description = "No process can be had for it, or the database did not answer; `Retry-After` says when to try again", body = V2Error),
    )
)]
pub(super) async fn infer(
    State(state): State<ApiState>,
    PathOf(name): PathOf<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<InferenceResponse>, V2Error> {
    run(&state, &find(&state, &name, None).await?, &headers, body).await
}

/// Try a version of a model out
#[utoipa::path(
    post, path = "/v2/models/{name}/versions/{version}/infer", tag = "open inference protocol",
    params(
        ("name" = String, Path, description = "A registered model", example = "fraud"),
        ("version" = String, Path, description = "A version, or an alias", example = "production"),
    ),
    request_body(content = InferenceRequest, example = json!({"id": "7", "inputs": [{"name": "input", "shape": [1, 2], "datatype": "FP32", "data": [12.5, 41]}]})),
    responses(
        (status = 200, description = "The outputs", body = InferenceResponse, example = json!({"model_name": "fraud", "model_version": "3", "id": "7", "outputs": [{"name": "probabilities", "datatype": "FP32", "shape": [1, 2], "data": [0.98, 0.02]}]})),
        (status = 400, description = "The tensors are not what the model takes, or too many", body = V2Error),
        (status = 404, description = "No such version", body = V2Error),
        (status = 413, description = "The body is too large", body = V2Error),
        (status = 429, description = "Too many models are being tried out; `Retry-After` says when to try again", body = V2Error),
        (status = 500, description = "The model does not run", body = V2Error),
        (status = 503, description = "No process can be had for it, or the database did not answer; `Retry-After` says when to try again", body = V2Error),
    )
)]
pub(super) async fn version_infer(
    State(state): State<ApiState>,
    PathOf((name, version)): PathOf<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<InferenceResponse>, V2Error> {
    run(&state, &find(&state, &name, Some(&version)).await?, &headers, body).await
}

async fn find(state: &ApiState, name: &str, version: Option<&str>) -> Result<ModelVersion, V2Error> {
    let what = version.map(|version| format!(" with a version or an alias {version:?}")).unwrap_or_default();
    let missing =
        || V2Error::new(StatusCode::NOT_FOUND, format!("no model is registered as {name:?}{what}; POST /v1/models registers one"));
    let which = version.map_or(Some(Which::Newest), Which::parse).ok_or_else(missing)?;
    let known = Name::parse(name).ok_or_else(missing)?;
    state.store.model_version(&known, &which).await?.ok_or_else(missing)
}

fn describe(version: &ModelVersion) -> ModelMetadata {
    ModelMetadata {
        name: version.name.to_string(),
        versions: vec![version.version.to_string()],
        platform: "onnxruntime_onnx",
        inputs: version.signature.inputs.iter().filter_map(TensorMetadata::of).collect(),
        outputs: version.signature.outputs.iter().filter_map(TensorMetadata::of).collect(),
    }
}

async fn run(state: &ApiState, version: &ModelVersion, headers: &HeaderMap, body: Body) -> Result<Json<InferenceResponse>, V2Error> {
    let request = read(headers, body).await?;
    check(version, &request)?;
    let given = request.inputs.into_iter();
    let inputs = given.map(|input| InferInput { name: input.name, shape: input.shape, data: Box::<str>::from(input.data).into() });
    let (outputs, mut left_out) =
        state.sampler.infer(&version.model, &version.signature, inputs.collect()).await.map_err(|problem| of_problem(&problem))?;
    let wanted: Option<Vec<String>> = request.outputs.map(|outputs| outputs.into_iter().map(|output| output.name).collect());
    let is_wanted = |name: &String| wanted.as_ref().is_none_or(|wanted| wanted.contains(name));
    left_out.retain(is_wanted);
    let outputs = outputs.into_iter().filter(|output| is_wanted(&output.name)).map(|output| {
        let data = RawValue::from_string(output.data).map_err(|e| ApiProblem::internal(&e))?;
        Ok(OutputTensor { name: output.name, datatype: output.datatype, shape: output.shape, data })
    });
    let outputs = outputs.collect::<Result<_, ApiProblem>>()?;
    let parameters = (!left_out.is_empty()).then(|| ResponseParameters { outputs_left_out: left_out.join(",") });
    let (model_name, model_version) = (version.name.to_string(), version.version.to_string());
    Ok(Json(InferenceResponse { model_name, model_version, id: request.id, outputs, parameters }))
}

async fn read(headers: &HeaderMap, body: Body) -> Result<InferenceRequest, V2Error> {
    if headers.contains_key("inference-header-content-length") {
        return Err(V2Error::bad("tensors in binary are not read: send them as JSON"));
    }
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    let too_large = || {
        let error = format!("the request has more than {MOST_BYTES} bytes; send fewer records, or submit a job with POST /v1/jobs");
        V2Error::new(StatusCode::PAYLOAD_TOO_LARGE, error)
    };
    if announced.is_some_and(|length| length > MOST_BYTES) {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    let mut blocks = body.into_data_stream();
    while let Some(block) = blocks.try_next().await.map_err(|error| V2Error::bad(error.to_string()))? {
        if bytes.len() + block.len() > MOST_BYTES {
            return Err(too_large());
        }
        bytes.extend_from_slice(&block);
    }
    serde_json::from_slice(&bytes).map_err(|e| V2Error::bad(format!("the body is no request of the protocol: {e}")))
}

/// What can be said of tensors without their elements.
fn check(version: &ModelVersion, request: &InferenceRequest) -> Result<(), V2Error> {
    let (name, signature) = (&version.name, &version.signature);
    let names = |values: &[ValueInfo]| values.iter().map(|value| value.name.clone()).collect::<Vec<_>>().join(", ");
    for (at, input) in request.inputs.iter().enumerate() {
        let Some(known) = signature.inputs.iter().find(|known| known.name == input.name) else {
            return Err(V2Error::bad(format!("{name} has no input {:?}: it takes {}", input.name, names(&signature.inputs))));
        };
        if request.inputs[..at].iter().any(|other| other.name == input.name) {
            return Err(V2Error::bad(format!("the input {:?} stands twice", input.name)));
        }
        let Some((dtype, shape)) = known.tensor() else { continue };
        if input.datatype != dtype.name() {
            return Err(V2Error::bad(format!("input {:?} takes {}, and this is {:?}", input.name, dtype.name(), input.datatype)));
        }
        let fits = |(at, (given, known)): (usize, (&usize, &Dim))| at == 0 || known.fixed().is_none_or(|fixed| fixed == *given as u64);
        if input.shape.len() != shape.len() || !input.shape.iter().zip(shape).enumerate().all(fits) {
            let wanted: Vec<String> = shape
                .iter()
                .enumerate()
                .map(|(at, dim)| dim.fixed().filter(|_| at > 0).map_or("-1".to_owned(), |n| n.to_string()))
                .collect();
            return Err(V2Error::bad(format!(
                "input {:?} takes the shape [{}], and this is {:?}",
                input.name,
                wanted.join(", "),
                input.shape
            )));
        }
    }
    if let Some(missing) = signature.inputs.iter().find(|known| !request.inputs.iter().any(|input| input.name == known.name)) {
        return Err(V2Error::bad(format!("input {:?} is missing: {name} takes {}", missing.name, names(&signature.inputs))));
    }
    for wanted in request.outputs.iter().flatten() {
        match signature.outputs.iter().find(|known| known.name == wanted.name) {
            Some(known) if known.tensor().is_some() => {}
            Some(_) => {
                return Err(V2Error::bad(format!(
                    "output {:?} is no tensor, and the protocol has no form for it; a job writes it",
                    wanted.name
                )));
            }
            None => return Err(V2Error::bad(format!("{name} has no output {:?}: it gives {}", wanted.name, names(&signature.outputs)))),
        }
    }
    let records = request.inputs.first().and_then(|input| input.shape.first()).copied().unwrap_or_default() as u64;
    if records > MOST_RECORDS {
        let error = format!(
            "{records} records are more than the {MOST_RECORDS} that are run here, to try a model out; put them into a bucket and submit a \
             job with POST /v1/jobs: {{\"model\": \"{name}@{}\", \"input\": …, \"output\": …}}",
            version.version
        );
        return Err(V2Error::bad(error));
    }
    Ok(())
}

fn of_problem(problem: &Problem) -> V2Error {
    let status = match problem.code.as_str() {
        INVALID_TENSOR | INFERENCE_FAILED => StatusCode::BAD_REQUEST,
        "runner_not_started" | "model_cache_failed" => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    V2Error::new(status, problem.to_string())
}
