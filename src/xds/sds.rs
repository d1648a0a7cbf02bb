//! Secrets by discovery: one state-of-the-world stream for each.
//!
//! Follows what contexts want ([`Secrets::needs`]), opens a stream where there is none and ends those nobody
//! needs any more. A stream that breaks is opened again for ever; what came last stays. What is no good is told to
//! the server and changes nothing. Runs on the control thread, and looks after files too, once a second.

use super::client::{AdsConfig, AdsConnect, AdsStream};
use super::grpc::GrpcConnector;
use super::types::ResourceType;
use crate::model::{Secret, SecretRef, SecretSource};
use crate::proto::envoy::config::core::v3::Node;
use crate::proto::envoy::extensions::transport_sockets::tls::v3 as pb;
use crate::proto::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use crate::proto::google::rpc::Status;
use crate::proto::message_name;
use crate::telemetry::{Registration, Registry, Scope, SdsStats};
use crate::tls::{Hold, Kind, Need, Secrets};
use crate::translate::envoy;
use crate::util::backoff::FullJitter;
use bytes::Bytes;
use prost::{Message as _, Name as _};
use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::AbortHandle;

/// How often files are looked at, and streams that nobody needs are ended.
const LOOK: Duration = Duration::from_secs(1);
/// `google.rpc.Code.INTERNAL`, the code of a NACK.
const NACK: i32 = 13;

/// Where secrets come from.
#[derive(Clone, Debug, Default)]
pub struct SdsConfig {
    /// Sent with the first request of a stream.
    pub node: Node,
    /// How to reach each source.
    pub sources: HashMap<SecretSource, AdsConfig>,
}

/// Ends its stream when dropped. Keeps what came by it: a server sends a secret to a stream only once.
struct Follower(AbortHandle, #[expect(dead_code, reason = "held, not read")] Hold);

impl Drop for Follower {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Works until dropped. `on_change` is called whenever something came or is wanted.
pub async fn run(secrets: Arc<Secrets>, config: SdsConfig, registry: Registry, on_change: impl Fn()) {
    let config = Arc::new(config);
    let mut changes = secrets.watch();
    let mut streams: HashMap<Need, Follower> = HashMap::new();
    loop {
        changes.mark_unchanged();
        let needs = secrets.needs();
        streams.retain(|need, _| needs.contains(need));
        for need in needs {
            if streams.contains_key(&need) {
                continue;
            }
            // Gone again: whoever wants it next makes a new cell, which wakes this loop.
            let Some(hold) = secrets.hold(&need) else { continue };
            let stats = registry.register(Scope::sds(&need.0.name), SdsStats::default());
            let task = follow(need.clone(), config.clone(), secrets.clone(), stats);
            streams.insert(need, Follower(tokio::spawn(task).abort_handle(), hold));
        }
        on_change();
        let has_files = secrets.refresh_files();
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(LOOK), if has_files || !streams.is_empty() => {}
        }
    }
}

/// Keeps a stream for one secret.
async fn follow(need: Need, config: Arc<SdsConfig>, secrets: Arc<Secrets>, stats: Registration<SdsStats>) {
    let (secret, kind) = &need;
    let Some(source) = config.sources.get(&secret.source) else {
        tracing::error!("secret {}: {:?} is no static cluster of the bootstrap", secret.name, secret.source);
        stats.update_failure.inc();
        return;
    };
    let mut backoff = FullJitter::new(source.backoff_base, source.backoff_cap);
    let mut connector = GrpcConnector::new(source.clone());
    let mut follower = Stream { secret, kind: *kind, config: &config, secrets: &secrets, stats: &stats };
    let (mut version, mut told) = (String::new(), String::new());
    loop {
        let why = match connector.connect().await {
            Ok(mut stream) => follower.serve(&mut stream, &mut version, &mut backoff).await,
            Err(why) => why,
        };
        stats.update_failure.inc();
        // The same again and again is told once.
        if why != told {
            tracing::warn!("secret {}: {why}", secret.name);
            told = why;
        }
        tokio::time::sleep(backoff.next_wait()).await;
    }
}

struct Stream<'a> {
    secret: &'a SecretRef,
    kind: Kind,
    config: &'a SdsConfig,
    secrets: &'a Secrets,
    stats: &'a SdsStats,
}

impl Stream<'_> {
    /// Serves one stream; why it ended.
    async fn serve(
        &mut self,
        stream: &mut impl AdsStream,
        version: &mut String,
        backoff: &mut FullJitter,
    ) -> String {
        let first = DiscoveryRequest {
            node: Some(self.config.node.clone()),
            resource_names: vec![self.secret.name.clone()],
            type_url: pb::Secret::type_url(),
            version_info: version.clone(),
            ..DiscoveryRequest::default()
        };
        self.stats.update_attempt.inc();
        let mut request = first.clone();
        loop {
            // This service knows one type only; the connector is told another, which changes nothing.
            if let Err(why) = stream.send(ResourceType::Cluster, Bytes::from(request.encode_to_vec())) {
                return why;
            }
            let message = match poll_fn(|cx| stream.poll_response(cx)).await {
                Ok(Some(message)) => message,
                Ok(None) => return "the server ended the stream".to_owned(),
                Err(why) => return why,
            };
            backoff.reset();
            let response = match DiscoveryResponse::decode(message) {
                Ok(response) => response,
                Err(error) => return format!("not a discovery response: {error}"),
            };
            let verdict = self.take(&response);
            request =
                DiscoveryRequest { node: None, response_nonce: response.nonce.clone(), ..first.clone() };
            match verdict {
                Ok(()) => {
                    self.stats.update_success.inc();
                    version.clone_from(&response.version_info);
                }
                Err(why) => {
                    self.stats.update_rejected.inc();
                    tracing::warn!("secret {}: refused: {why}", self.secret.name);
                    request.error_detail = Some(Status { code: NACK, message: why, details: Vec::new() });
                }
            }
            request.version_info.clone_from(version);
        }
    }

    fn take(&self, response: &DiscoveryResponse) -> Result<(), String> {
        for any in &response.resources {
            if message_name(&any.type_url) != pb::Secret::full_name() {
                return Err(format!("{}: not a secret", any.type_url));
            }
            if envoy::resource_name(&any.value) != Some(&self.secret.name) {
                continue;
            }
            let read = envoy::secret(&any.value).map_err(|rejection| rejection.to_string())?;
            let version = &response.version_info;
            return match (self.kind, read.model) {
                (Kind::Certificate, Secret::Certificate(certificate)) => {
                    self.secrets.put_certificate(self.secret, certificate, version)
                }
                (Kind::Validation, Secret::Validation(validation)) => {
                    self.secrets.put_validation(self.secret, *validation, version)
                }
                (Kind::Certificate, _) => Err("a tls_certificate is wanted".to_owned()),
                (Kind::Validation, _) => Err("a validation_context is wanted".to_owned()),
            };
        }
        Ok(())
    }
}
