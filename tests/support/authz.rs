//! An authorization service.

use mizzen::proto::envoy::config::core::v3::{HeaderValue, HeaderValueOption};
use mizzen::proto::envoy::service::auth::v3::authorization_server::{Authorization, AuthorizationServer};
use mizzen::proto::envoy::service::auth::v3::check_response::HttpResponse;
use mizzen::proto::envoy::service::auth::v3::{
    CheckRequest, CheckResponse, DeniedHttpResponse, OkHttpResponse,
};
use mizzen::proto::envoy::r#type::v3::HttpStatus;
use mizzen::proto::google::rpc::Status as Code;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

type Decide = dyn Fn(&CheckRequest) -> Result<CheckResponse, Status> + Send + Sync;

/// See the module.
#[derive(Clone)]
pub struct Authz {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<CheckRequest>>>,
}

struct Service {
    decide: Arc<Decide>,
    delay: Duration,
    seen: Arc<Mutex<Vec<CheckRequest>>>,
}

#[tonic::async_trait]
impl Authorization for Service {
    async fn check(&self, request: Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        let request = request.into_inner();
        self.seen.lock().unwrap().push(request.clone());
        tokio::time::sleep(self.delay).await;
        (self.decide)(&request).map(Response::new)
    }
}

impl Authz {
    pub async fn start(
        decide: impl Fn(&CheckRequest) -> Result<CheckResponse, Status> + Send + Sync + 'static,
    ) -> Authz {
        Authz::slow(Duration::ZERO, decide).await
    }

    /// Decides after `delay`.
    pub async fn slow(
        delay: Duration,
        decide: impl Fn(&CheckRequest) -> Result<CheckResponse, Status> + Send + Sync + 'static,
    ) -> Authz {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let authz = Authz { address: listener.local_addr().unwrap(), seen: Arc::default() };
        let service = Service { decide: Arc::new(decide), delay, seen: authz.seen.clone() };
        let server = tonic::transport::Server::builder().add_service(AuthorizationServer::new(service));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        authz
    }

    /// What it was asked so far.
    pub fn seen(&self) -> Vec<CheckRequest> {
        self.seen.lock().unwrap().clone()
    }
}

/// A header, as the message has it.
pub fn field(name: &str, value: &str) -> HeaderValueOption {
    let header = HeaderValue { key: name.into(), value: value.into(), ..HeaderValue::default() };
    HeaderValueOption { header: Some(header), ..HeaderValueOption::default() }
}

/// Consent with these changes.
pub fn consent(changes: OkHttpResponse) -> CheckResponse {
    CheckResponse { http_response: Some(HttpResponse::OkResponse(changes)), ..CheckResponse::default() }
}

/// A refusal; code 7 is PERMISSION_DENIED.
pub fn refusal(status: i32, headers: Vec<HeaderValueOption>, body: &str) -> CheckResponse {
    let status = (status != 0).then_some(HttpStatus { code: status });
    let denied = DeniedHttpResponse { status, headers, body: body.into() };
    CheckResponse {
        status: Some(Code { code: 7, ..Code::default() }),
        http_response: Some(HttpResponse::DeniedResponse(denied)),
        ..CheckResponse::default()
    }
}
