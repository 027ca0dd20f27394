//! What can go wrong with a call, by name: for metrics, the log, and what the client and the fallback are told.
//!
//! Input: the answer of the Lambda API, or the error a function ended with. Output: a code from a closed list. Must not: put
//! AWS's own words into a label or before a client.
//!
//! Source: AWS Lambda API Reference, Invoke, Errors.

use serde_json::Value;

/// One kind of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The metric's label and the log's `cause`.
    pub code: &'static str,
    /// What the client gets when nothing else answers, and what `fallback.on` is compared with.
    pub status: u16,
    /// Whether it is the deadline of the function that passed.
    pub timeout: bool,
}

const fn fault(code: &'static str, status: u16) -> Fault {
    Fault { code, status, timeout: false }
}

pub const FUNCTION_ERROR: Fault = fault("function_error", 502);
pub const FUNCTION_TIMEOUT: Fault = Fault { code: "function_timeout", status: 504, timeout: true };
pub const MALFORMED_ANSWER: Fault = fault("malformed_function_answer", 502);
pub const EVENT_TOO_LARGE: Fault = fault("event_too_large", 413);
pub const ANSWER_TOO_LARGE: Fault = fault("function_answer_too_large", 502);
pub const CREDENTIALS: Fault = fault("credentials_unavailable", 503);
pub const STREAM_BROKEN: Fault = fault("function_stream_broken", 502);

/// Refusals of the Lambda API by the name of their exception.
const EXCEPTIONS: [(&str, Fault); 45] = [
    ("AccessDeniedException", fault("lambda_access_denied", 502)),
    ("AccessDenied", fault("lambda_access_denied", 502)),
    ("CodeArtifactUserDeletedException", fault("function_invalid", 502)),
    ("EC2AccessDeniedException", fault("vpc_access_denied", 502)),
    ("EC2ThrottledException", fault("vpc_throttled", 503)),
    ("EC2UnexpectedException", fault("vpc_unexpected", 502)),
    ("EFSIOException", fault("efs", 502)),
    ("EFSMountConnectivityException", fault("efs", 502)),
    ("EFSMountFailureException", fault("efs", 502)),
    ("EFSMountTimeoutException", fault("efs", 504)),
    ("ENILimitReachedException", fault("eni_limit", 503)),
    ("ExpiredToken", fault("credentials_expired", 502)),
    ("ExpiredTokenException", fault("credentials_expired", 502)),
    ("IncompleteSignature", fault("signature_refused", 502)),
    ("IncompleteSignatureException", fault("signature_refused", 502)),
    ("InvalidClientTokenId", fault("credentials_refused", 502)),
    ("InvalidParameterValueException", fault("event_refused", 502)),
    ("InvalidRequestContentException", fault("event_refused", 502)),
    ("InvalidRuntimeException", fault("function_invalid", 502)),
    ("InvalidSecurityGroupIDException", fault("vpc_invalid", 502)),
    ("InvalidSignatureException", fault("signature_refused", 502)),
    ("InvalidSubnetIDException", fault("vpc_invalid", 502)),
    ("InvalidZipFileException", fault("function_invalid", 502)),
    ("KMSAccessDeniedException", fault("kms", 502)),
    ("KMSDisabledException", fault("kms", 502)),
    ("KMSInvalidStateException", fault("kms", 502)),
    ("KMSNotFoundException", fault("kms", 502)),
    ("MissingAuthenticationToken", fault("signature_refused", 502)),
    ("MissingAuthenticationTokenException", fault("signature_refused", 502)),
    ("RecursiveInvocationException", fault("recursive_call", 502)),
    ("RequestTooLargeException", fault("event_too_large", 413)),
    ("ResourceConflictException", fault("function_updating", 503)),
    ("ResourceNotFoundException", fault("function_not_found", 502)),
    ("ResourceNotReadyException", fault("function_not_ready", 503)),
    ("ServiceException", fault("lambda_service", 502)),
    ("ServiceQuotaExceededException", fault("lambda_quota", 503)),
    ("SignatureDoesNotMatch", fault("signature_refused", 502)),
    ("SnapStartException", fault("snapstart", 502)),
    ("SnapStartNotReadyException", fault("snapstart_not_ready", 503)),
    ("SnapStartTimeoutException", fault("snapstart_timeout", 504)),
    ("SubnetIPAddressLimitReachedException", fault("subnet_addresses", 503)),
    ("ThrottlingException", fault("throttled", 429)),
    ("TooManyRequestsException", fault("throttled", 429)),
    ("UnrecognizedClientException", fault("credentials_refused", 502)),
    ("UnsupportedMediaTypeException", fault("event_refused", 502)),
];

/// `Reason` of a throttle: which of the limits it was.
const THROTTLES: [(&str, Fault); 7] = [
    ("CallerRateLimitExceeded", fault("throttled_caller_rate", 429)),
    ("ConcurrentInvocationLimitExceeded", fault("throttled_account_concurrency", 429)),
    ("ConcurrentSnapshotCreateLimitExceeded", fault("throttled_snapshots", 429)),
    ("FunctionInvocationRateLimitExceeded", fault("throttled_function_rate", 429)),
    ("ReservedFunctionConcurrentInvocationLimitExceeded", fault("throttled_function_concurrency", 429)),
    ("ReservedFunctionInvocationRateLimitExceeded", fault("throttled_function_rate", 429)),
    ("FunctionConcurrentInvocationLimitExceeded", fault("throttled_function_concurrency", 429)),
];

/// What an error answer of the API says: its exception's name, its reason, its words.
pub struct Refusal {
    pub fault: Fault,
    /// For the log: name and words, bounded.
    pub detail: String,
}

/// An answer of the Lambda API that is not 200.
pub fn refusal(status: u16, error_type: Option<&str>, body: &[u8]) -> Refusal {
    let json: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
    let field = |names: [&str; 3]| names.iter().find_map(|name| json[*name].as_str());
    let named = error_type.or_else(|| field(["__type", "Code", "code"])).unwrap_or_default();
    // `TooManyRequestsException:http://...` and `com.amazonaws.lambda#ServiceException` are the same names.
    let named = named.split(':').next().unwrap_or_default();
    let named = named.rsplit('#').next().unwrap_or_default();
    let reason = field(["Reason", "reason", "_"]).unwrap_or_default();
    let message = field(["Message", "message", "errorMessage"]).unwrap_or_default();
    let of = |table: &[(&str, Fault)], name: &str| {
        table.iter().find(|(known, _)| *known == name).map(|(_, it)| *it)
    };
    let by_status = || match status {
        403 if message.contains("expired") => fault("credentials_expired", 502),
        403 => fault("lambda_access_denied", 502),
        404 => fault("function_not_found", 502),
        413 => EVENT_TOO_LARGE,
        429 => fault("throttled", 429),
        500..=599 => fault("lambda_service", 502),
        _ => fault("lambda_refused", 502),
    };
    let mut fault = of(&EXCEPTIONS, named).unwrap_or_else(by_status);
    if fault.code == "throttled" {
        fault = of(&THROTTLES, reason).unwrap_or(fault);
    }
    if fault.code == "signature_refused" && message.contains("expired") {
        fault = Fault { code: "credentials_expired", ..fault };
    }
    let parts = [named, reason, message].into_iter().filter(|part| !part.is_empty());
    let detail = parts.collect::<Vec<_>>().join(": ");
    Refusal { fault, detail: bounded(&format!("{status} {detail}")) }
}

/// A function that ended with an error: 200 with `X-Amz-Function-Error`, and what it left as payload.
pub fn function_error(payload: &[u8]) -> Refusal {
    let json: Value = serde_json::from_slice(payload).unwrap_or(Value::Null);
    let kind = json["errorType"].as_str().unwrap_or_default();
    let message = json["errorMessage"].as_str().unwrap_or_default();
    let fault = match kind {
        "Function.ResponseSizeTooLarge" => ANSWER_TOO_LARGE,
        "Runtime.OutOfMemory" => Fault { code: "function_out_of_memory", ..FUNCTION_ERROR },
        "Runtime.ExitError" => Fault { code: "function_exit", ..FUNCTION_ERROR },
        "Sandbox.Timedout" => FUNCTION_TIMEOUT,
        _ if message.contains("Task timed out after") => FUNCTION_TIMEOUT,
        _ if message.contains("signal: killed") => Fault { code: "function_out_of_memory", ..FUNCTION_ERROR },
        _ if message.contains("Runtime exited") => Fault { code: "function_exit", ..FUNCTION_ERROR },
        _ => FUNCTION_ERROR,
    };
    Refusal { fault, detail: bounded(&format!("{kind}: {message}")) }
}

/// At most 300 characters, none of them a control character: enough to name the cause, too little for a stack trace.
pub fn bounded(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect()
}
