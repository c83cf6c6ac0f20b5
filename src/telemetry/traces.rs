//! Traces over OTLP, enabled by the standard `OTEL_*` variables. A separate thread sends spans from a bounded queue, so
//! a slow or missing collector loses spans but blocks nothing.

use std::{collections::HashMap, time::Duration};

use opentelemetry::{
    Context,
    propagation::TextMapPropagator,
    trace::{TraceContextExt, TracerProvider as _},
};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig};
use opentelemetry_sdk::{
    Resource,
    propagation::TraceContextPropagator,
    trace::{SdkTracer, SdkTracerProvider},
};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// The service's name unless `OTEL_SERVICE_NAME` sets another.
const SERVICE_NAME: &str = "drift-retention";
/// The variables that name a collector.
const ENDPOINT_VARIABLES: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
];
/// The header that carries a trace, and the propagator's name for its value.
const TRACEPARENT: &str = "traceparent";
/// How long the program may take to send the last spans when it ends.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// Why spans cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The exporter cannot be created. This is its message without the endpoint, which the message repeats.
    #[error("cannot send traces; check the OTEL_EXPORTER_OTLP_* variables: {0}")]
    Exporter(String),
    /// The protocol is not supported.
    #[error("OTEL_EXPORTER_OTLP_PROTOCOL is {0:?}; use grpc or http/protobuf")]
    Protocol(String),
}

/// Sends spans until it is dropped.
#[derive(Debug)]
pub struct Traces(SdkTracerProvider);

impl From<opentelemetry_otlp::ExporterBuildError> for TraceError {
    /// Replaces the endpoint, which may hold a password or a token, by the name of its variable.
    fn from(error: opentelemetry_otlp::ExporterBuildError) -> Self {
        let mut text = error.to_string();
        for name in ENDPOINT_VARIABLES {
            text = variable(name).map_or(text.clone(), |endpoint| text.replace(&endpoint, name));
        }
        Self::Exporter(text)
    }
}

impl Traces {
    /// Starts sending spans if the environment asks for it. Needs a tokio runtime.
    ///
    /// # Errors
    /// When the collector's settings in the environment are invalid.
    pub fn from_environment() -> Result<Option<Self>, TraceError> {
        if !is_enabled(variable) {
            return Ok(None);
        }
        let protocol = variable("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL")
            .or_else(|| variable("OTEL_EXPORTER_OTLP_PROTOCOL"));
        let exporter = match protocol.as_deref() {
            Some("grpc") => SpanExporter::builder().with_tonic().build()?,
            None | Some("http/protobuf") => SpanExporter::builder()
                .with_http()
                .with_protocol(Protocol::HttpBinary)
                .build()?,
            Some(other) => return Err(TraceError::Protocol(other.to_owned())),
        };
        // The builder reads OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES after this.
        let mut resource = Resource::builder();
        if variable("OTEL_SERVICE_NAME").is_none() {
            resource = resource.with_service_name(SERVICE_NAME);
        }
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_resource(resource.build())
            .build();
        Ok(Some(Self(provider)))
    }

    /// The tracer that creates spans.
    #[must_use]
    pub fn tracer(&self) -> SdkTracer {
        self.0.tracer(SERVICE_NAME)
    }
}

impl Drop for Traces {
    /// Sends the spans that are still queued, within a time limit.
    fn drop(&mut self) {
        if let Err(error) = self.0.shutdown_with_timeout(FLUSH_TIMEOUT) {
            tracing::debug!(%error, "the last spans were not sent");
        }
    }
}

/// Whether the environment names a collector or the exporter `otlp`, whose default collector is on this machine. As the
/// standard says, values are compared without regard to case.
fn is_enabled(variable: impl Fn(&str) -> Option<String>) -> bool {
    let is_enabled = match variable("OTEL_TRACES_EXPORTER") {
        Some(exporters) => exporters
            .split(',')
            .any(|exporter| exporter.trim().eq_ignore_ascii_case("otlp")),
        None => ENDPOINT_VARIABLES
            .iter()
            .any(|name| variable(name).is_some()),
    };
    let is_disabled = variable("OTEL_SDK_DISABLED")
        .is_some_and(|disabled| disabled.trim().eq_ignore_ascii_case("true"));
    is_enabled && !is_disabled
}

#[expect(
    clippy::disallowed_methods,
    reason = "these variables belong to OpenTelemetry and are not settings of ours"
)]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The current span as a W3C `traceparent`, or `None` if nothing is traced.
#[must_use]
pub fn traceparent() -> Option<String> {
    let mut carrier = HashMap::new();
    TraceContextPropagator::new().inject_context(&Span::current().context(), &mut carrier);
    carrier.remove(TRACEPARENT)
}

/// Makes `span` a child of the span in `traceparent`. As the standard says, a malformed value is ignored.
pub fn set_parent(span: &Span, traceparent: Option<&str>) {
    if let Some(parent) = traceparent.and_then(remote_context) {
        // An error means that the span is not traced, so there is nothing to do.
        let _ = span.set_parent(parent);
    }
    let own = span.context().span().span_context().clone();
    if own.is_valid() {
        span.record("trace_id", tracing::field::display(own.trace_id()));
    }
}

/// Links `span` to another trace.
pub fn link(span: &Span, traceparent: Option<&str>) {
    if let Some(other) = traceparent.and_then(remote_context) {
        span.add_link(other.span().span_context().clone());
    }
}

/// The context of the span in `traceparent`, or `None` if the value is malformed.
fn remote_context(traceparent: &str) -> Option<Context> {
    // The propagator accepts fields of any length. The standard does not.
    let lengths = traceparent.trim().split('-').map(str::len);
    if !lengths.take(4).eq([2, 32, 16, 2]) {
        return None;
    }
    let carrier = HashMap::from([(TRACEPARENT.to_owned(), traceparent.to_owned())]);
    let context = TraceContextPropagator::new().extract_with_context(&Context::new(), &carrier);
    context.has_active_span().then_some(context)
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::{SpanContext, SpanId, TraceId};
    use proptest::prelude::*;

    use super::*;

    fn parse(traceparent: &str) -> Option<SpanContext> {
        remote_context(traceparent).map(|context| context.span().span_context().clone())
    }

    proptest! {
        #[test]
        fn any_text_is_a_parent_or_none_and_stops_nothing(
            text in prop_oneof![
                any::<String>(),
                "[0-9a-fA-F]{0,3}-[0-9a-fA-F]{31,33}-[0-9a-fA-F]{15,17}-[0-9a-fA-F+]{1,3}(-.{0,9})?",
                "[ \t]?[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}[ \t]?",
                "00-0{32}-0{16}-[0-9]{2}",
            ],
        ) {
            if let Some(parent) = parse(&text) {
                prop_assert!(parent.is_valid() && parent.is_remote());
                let ids = format!("{}-{}", parent.trace_id(), parent.span_id());
                prop_assert!(text.to_ascii_lowercase().contains(&ids), "{ids}");
            }
            set_parent(&Span::none(), Some(&text));
            link(&Span::none(), Some(&text));
        }

        #[test]
        fn whatever_the_standard_allows_is_a_parent(
            trace in 1_u128.., span in 1_u64.., flags in any::<u8>(), later in "(-[0-9a-z]{1,9})?",
            version in 0_u8..255,
        ) {
            let more = if version == 0 { "" } else { &later };
            let parent = parse(&format!("{version:02x}-{trace:032x}-{span:016x}-{flags:02x}{more}"));
            let parent = parent.ok_or_else(|| TestCaseError::fail("it was refused"))?;
            prop_assert_eq!(parent.trace_id(), TraceId::from_bytes(trace.to_be_bytes()));
            prop_assert_eq!(parent.span_id(), SpanId::from_bytes(span.to_be_bytes()));
            // The standard has readers clear the flags that they do not know.
            prop_assert_eq!(parent.trace_flags().to_u8(), flags & 1);
        }
    }

    #[test]
    fn traces_are_sent_where_a_collector_or_its_exporter_is_named_and_nobody_says_no() {
        let collector = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318");
        let its_own = (
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
            "http://collector/traces",
        );
        let exporter = |value| ("OTEL_TRACES_EXPORTER", value);
        let disabled = |value| ("OTEL_SDK_DISABLED", value);
        for (environment, expected) in [
            (vec![], false),
            (vec![collector], true),
            (vec![its_own], true),
            (vec![exporter("otlp")], true),
            (vec![exporter("console, OTLP")], true),
            (vec![exporter("otlp"), collector], true),
            (vec![exporter("none"), collector], false),
            (vec![exporter("zipkin"), collector], false),
            (vec![collector, disabled("true")], false),
            (vec![exporter("otlp"), disabled("TRUE")], false),
            (vec![collector, disabled("True")], false),
            (vec![collector, disabled("false")], true),
            (vec![collector, disabled("1")], true),
        ] {
            let variable = |name: &str| {
                let mut pairs = environment.iter();
                pairs
                    .find(|(key, _)| *key == name)
                    .map(|(_, value)| (*value).to_owned())
            };
            assert_eq!(is_enabled(variable), expected, "{environment:?}");
        }
    }

    #[test]
    fn only_what_the_standard_allows_is_a_parent() {
        let (trace, span) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
        let good = format!("00-{trace}-{span}-01");
        assert_eq!(parse(&good).unwrap().trace_id().to_string(), trace);
        for bad in [
            String::new(),
            "00".into(),
            format!("ff-{trace}-{span}-01"),
            format!("0-{trace}-{span}-01"),
            format!("00-{}-{span}-01", &trace[1..]),
            format!("00-{trace}-{}-01", &span[1..]),
            format!("00-{trace}-{span}-1"),
            format!("00-{}-{span}-01", trace.to_uppercase()),
            format!("00-{trace}-{span}-01-more"),
            format!("00-{}-{span}-01", "0".repeat(32)),
            format!("00-{trace}-{}-01", "0".repeat(16)),
            format!("00-{}-{span}-01", "g".repeat(32)),
            format!("00-{trace}-{span}-é"),
        ] {
            assert_eq!(parse(&bad), None, "{bad}");
        }
    }
}
