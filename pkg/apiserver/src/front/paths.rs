//! Paths that are no resources: discovery, health, version, keys.
use super::{Answer, Front, method_not_allowed};
use crate::body::{self, Body};
use crate::request::User;
use crate::{health, version};
use api::Status;
use http::{Method, Response, StatusCode};

/// 404 of a path that nothing serves, as Go's multiplexer answers it.
pub(super) fn not_found() -> Response<Body> {
    body::content(StatusCode::NOT_FOUND, "text/plain; charset=utf-8", "404 page not found\n")
}

impl Front {
    pub(super) async fn serve_path(&self, path: &str, _user: &User, request: &http::request::Parts) -> Answer {
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let known = match parts[..] {
            [""] => Some(self.root()),
            ["api" | "apis", ..] => {
                self.discovery.serve(&parts, &request.headers, &self.registry.served(), &self.remotes())
            }
            ["openapi", ..] => self.openapi.serve(
                &parts,
                request.uri.query(),
                &request.headers,
                &self.registry.served(),
                &self.remotes(),
            ),
            ["metrics"] => Some(self.metrics.serve()),
            ["version"] => Some(body::json(StatusCode::OK, version::json())),
            [endpoint @ ("healthz" | "livez" | "readyz"), ref check @ ..] => {
                let query = request.uri.query().map(crate::request::parse_query).unwrap_or_default();
                health::serve(self, endpoint, &check.join("/"), &query).await
            }
            ["cacerts"] => Some(body::content(StatusCode::OK, "application/x-pem-file", self.root_ca_pem.clone())),
            [".well-known", "openid-configuration"] => Some(self.openid_configuration()),
            ["openid", "v1", "jwks"] => {
                let keys = self.authenticator.service_accounts().jwks().to_string();
                Some(body::content(StatusCode::OK, "application/jwk-set+json", keys))
            }
            _ => None,
        };
        let Some(response) = known else {
            // Within what is served the resource handlers answer, with a Status.
            return match parts[..] {
                ["api", _] => Err(Status::no_such_path()),
                ["apis", group, _] if self.discovery.serves(group, &self.registry.served()) => {
                    Err(Status::no_such_path())
                }
                _ => Ok(not_found()),
            };
        };
        if matches!(request.method, Method::GET | Method::HEAD) {
            return Ok(response);
        }
        Err(method_not_allowed())
    }

    /// The paths that are served, as `/` lists them.
    fn root(&self) -> Response<Body> {
        let mut paths: Vec<String> = ["/.well-known/openid-configuration", "/openid/v1/jwks", "/version", "/metrics"]
            .into_iter()
            .chain(["/openapi/v2", "/openapi/v3", "/cacerts"])
            .map(str::to_owned)
            .collect();
        paths.extend(self.discovery.paths(&self.registry.served(), &self.remotes()));
        for endpoint in ["/healthz", "/livez", "/readyz"] {
            paths.push(endpoint.into());
            paths.extend(health::CHECKS.iter().map(|check| format!("{endpoint}/{check}")));
        }
        paths.sort();
        body::json(StatusCode::OK, serde_json::json!({ "paths": paths }).to_string())
    }

    fn openid_configuration(&self) -> Response<Body> {
        let issuer = self.authenticator.service_accounts().issuer();
        let document = serde_json::json!({
            "issuer": issuer,
            "jwks_uri": format!("https://{}/openid/v1/jwks", self.discovery.server_address()),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        });
        body::json(StatusCode::OK, document.to_string())
    }
}
