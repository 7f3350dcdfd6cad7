//! The few calls to containerd that the supervisor makes itself. Field numbers are those of Kubernetes' CRI v1
//! (`VersionRequest`, `StatusRequest`) and of containerd's `services/images/v1`.
use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

/// Bound of every call: these are answered from memory.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// The namespace in which containerd keeps what CRI made.
pub const NAMESPACE: &str = "k8s.io";

#[derive(Clone, PartialEq, prost::Message)]
struct VersionRequest {
    #[prost(string, tag = "1")]
    version: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct VersionResponse {
    #[prost(string, tag = "3")]
    runtime_version: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct GetImageRequest {
    #[prost(string, tag = "1")]
    name: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct GetImageResponse {
    #[prost(message, optional, tag = "1")]
    image: Option<Image>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Image {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(map = "string, string", tag = "2")]
    labels: HashMap<String, String>,
    #[prost(message, optional, tag = "3")]
    target: Option<Descriptor>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Descriptor {
    #[prost(string, tag = "1")]
    media_type: String,
    #[prost(string, tag = "2")]
    digest: String,
}

/// A connection to containerd that is made when first used, and again when lost.
#[derive(Clone)]
pub struct Containerd(Channel);

impl Containerd {
    /// Needs a runtime; does not connect yet.
    pub fn lazy(socket: &Path) -> Result<Self, tonic::transport::Error> {
        let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display()))?;
        Ok(Self(endpoint.connect_timeout(CALL_TIMEOUT).timeout(CALL_TIMEOUT).connect_lazy()))
    }

    /// containerd's version, asked of its CRI plugin: who answers can run pods.
    pub async fn version(&self) -> Result<String, Status> {
        let request = VersionRequest { version: "v1".to_owned() };
        let response: VersionResponse = self.call("/runtime.v1.RuntimeService/Version", request).await?;
        Ok(response.runtime_version)
    }

    /// The digest behind an image's name, if containerd has it.
    pub async fn image_digest(&self, name: &str) -> Result<Option<String>, Status> {
        let request = GetImageRequest { name: name.to_owned() };
        match self.call::<_, GetImageResponse>("/containerd.services.images.v1.Images/Get", request).await {
            Ok(response) => Ok(response.image.and_then(|image| image.target).map(|target| target.digest)),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(status),
        }
    }

    async fn call<M, R>(&self, path: &'static str, message: M) -> Result<R, Status>
    where
        M: prost::Message + Send + Sync + 'static,
        R: prost::Message + Default + Send + Sync + 'static,
    {
        let mut grpc = Grpc::new(self.0.clone());
        grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let mut request = Request::new(message);
        request.metadata_mut().insert("containerd-namespace", tonic::metadata::MetadataValue::from_static(NAMESPACE));
        let response = grpc.unary(request, PathAndQuery::from_static(path), ProstCodec::<M, R>::default());
        Ok(response.await?.into_inner())
    }
}
