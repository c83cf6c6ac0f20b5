//! A collector of traces inside the test: an OTLP receiver over gRPC, and one over HTTP.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use axum::{Router, body::Bytes, extract::State, http::StatusCode, routing::post};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::any_value::Value,
    trace::v1::Span,
};
use prost::Message;
use tokio::net::TcpListener;
use tonic::{Request, Response, Status};

use super::product::eventually;

/// The spans that have come in.
#[derive(Clone, Default)]
pub struct Collector(Arc<Mutex<Vec<Span>>>);

/// How spans come in.
#[derive(Clone, Copy, Debug)]
pub enum Protocol {
    Grpc,
    Http,
}

impl Collector {
    /// Starts one; returns it, and the environment of a service that sends to it.
    pub async fn start(protocol: Protocol) -> (Self, Vec<(&'static str, String)>) {
        let collector = Self::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        match protocol {
            Protocol::Grpc => {
                let routes =
                    tonic::service::Routes::new(TraceServiceServer::new(collector.clone()));
                drop(listener);
                let server = tonic::transport::Server::builder().add_routes(routes);
                tokio::spawn(server.serve(address));
            }
            Protocol::Http => collector.listen(listener),
        }
        (collector, environment(protocol, address))
    }

    /// One over HTTP, there.
    pub fn at(listener: TcpListener) -> Self {
        let collector = Self::default();
        collector.listen(listener);
        collector
    }

    fn listen(&self, listener: TcpListener) {
        let routes = Router::new()
            .route("/v1/traces", post(receive))
            .with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, routes).await });
    }

    /// Waits for the span that this one is a child of.
    pub async fn parent_of(&self, child: &Span) -> Span {
        let find = || {
            let spans = self.0.lock().unwrap();
            let mut spans = spans.iter();
            spans
                .find(|span| span.span_id == child.parent_span_id)
                .cloned()
        };
        let what = format!("the parent of {:?} comes in", child.name);
        eventually(&what, async || find().is_some()).await;
        find().unwrap()
    }

    /// All spans of this name.
    pub fn named(&self, name: &str) -> Vec<Span> {
        let spans = self.0.lock().unwrap();
        spans
            .iter()
            .filter(|span| span.name == name)
            .cloned()
            .collect()
    }

    /// Waits for a span of this name, and returns the first.
    pub async fn one(&self, name: &str) -> Span {
        eventually(&format!("a span {name:?} comes in"), async || {
            !self.named(name).is_empty()
        })
        .await;
        self.named(name).remove(0)
    }

    fn take(&self, request: ExportTraceServiceRequest) {
        let scopes = request
            .resource_spans
            .into_iter()
            .flat_map(|resource| resource.scope_spans);
        let spans = scopes.flat_map(|scope| scope.spans);
        self.0.lock().unwrap().extend(spans);
    }
}

/// A collector that answers whatever comes, over either protocol, with an error; returns the environment of a service
/// that sends to it.
pub async fn refusing(protocol: Protocol) -> Vec<(&'static str, String)> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let routes = Router::new().fallback(async || StatusCode::INTERNAL_SERVER_ERROR);
    tokio::spawn(async move { axum::serve(listener, routes).await });
    environment(protocol, address)
}

/// What makes a service send its spans there, at once.
pub fn environment(protocol: Protocol, address: SocketAddr) -> Vec<(&'static str, String)> {
    let name = match protocol {
        Protocol::Grpc => "grpc",
        Protocol::Http => "http/protobuf",
    };
    vec![
        ("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{address}")),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", name.to_owned()),
        ("OTEL_BSP_SCHEDULE_DELAY", "50".to_owned()),
    ]
}

/// An attribute as text.
pub fn attribute(span: &Span, key: &str) -> Option<String> {
    let found = span
        .attributes
        .iter()
        .find(|attribute| attribute.key == key)?;
    match found.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        Value::IntValue(number) => Some(number.to_string()),
        other => Some(format!("{other:?}")),
    }
}

/// An id as hexadecimal digits.
pub fn hex(id: &[u8]) -> String {
    let bytes: Vec<String> = id.iter().map(|byte| format!("{byte:02x}")).collect();
    bytes.concat()
}

async fn receive(State(collector): State<Collector>, body: Bytes) -> Vec<u8> {
    collector.take(ExportTraceServiceRequest::decode(body).unwrap());
    ExportTraceServiceResponse::default().encode_to_vec()
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.take(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}
