//! CRI v1 and containerd's events, over the runtime's socket; gRPC's health checks.
use hyper_util::rt::TokioIo;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};

/// The protocol's messages and clients.
#[allow(clippy::all, rustdoc::all)]
mod generated {
    pub mod cri {
        tonic::include_proto!("runtime.v1");
    }
    pub mod events {
        tonic::include_proto!("containerd.services.events.v1");
    }
    pub mod health {
        tonic::include_proto!("grpc.health.v1");
    }
}
pub use generated::cri::*;
pub use generated::{events, health};

/// No answer of the runtime may take longer, but those that wait for a container by design.
const CALL: Duration = Duration::from_secs(120);

/// Labels that the kubelet puts on every sandbox and container; tools that read CRI know them.
pub mod label {
    pub const POD_NAME: &str = "io.kubernetes.pod.name";
    pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
    pub const POD_UID: &str = "io.kubernetes.pod.uid";
    pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";
    pub const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
    pub const HASH: &str = "io.kubernetes.container.hash";
    pub const TERMINATION_PATH: &str = "io.kubernetes.container.terminationMessagePath";
    pub const IMAGE: &str = "eyot.dev/image";
    pub const TERMINATION_FILE: &str = "eyot.dev/termination-log";
}

pub type Runtime = runtime_service_client::RuntimeServiceClient<Channel>;
pub type Images = image_service_client::ImageServiceClient<Channel>;

/// The most that one message of the runtime may hold: lists of thousands of containers.
const MESSAGE_LIMIT_BYTES: usize = 16 << 20;

/// Clients of one runtime; cheap to clone.
#[derive(Clone)]
pub struct Cri {
    channel: Channel,
}

impl Cri {
    /// Connects when first used, and again whenever the runtime was away.
    pub fn new(socket: &Path) -> Self {
        let socket = socket.to_owned();
        let endpoint = Endpoint::from_static("http://runtime").connect_timeout(Duration::from_secs(5));
        let connect = move |_: Uri| connect(socket.clone());
        Self { channel: endpoint.connect_with_connector_lazy(tower::service_fn(connect)) }
    }

    pub fn runtime(&self) -> Runtime {
        Runtime::new(self.channel.clone()).max_decoding_message_size(MESSAGE_LIMIT_BYTES)
    }

    pub fn images(&self) -> Images {
        Images::new(self.channel.clone()).max_decoding_message_size(MESSAGE_LIMIT_BYTES)
    }

    pub fn events(&self) -> events::events_client::EventsClient<Channel> {
        events::events_client::EventsClient::new(self.channel.clone())
    }
}

async fn connect(socket: PathBuf) -> std::io::Result<TokioIo<UnixStream>> {
    Ok(TokioIo::new(UnixStream::connect(socket).await?))
}

/// A request with the common deadline.
pub fn request<T>(message: T) -> tonic::Request<T> {
    request_within(message, CALL)
}

pub fn request_within<T>(message: T, deadline: Duration) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(deadline);
    request
}
