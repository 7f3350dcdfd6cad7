//! Whose token is this? `authentication.k8s.io/v1 TokenReview`.
use super::{Review, strings, user_info};
use api::Status;
use serde_json::{Value, json};

impl Review<'_> {
    /// The review's status.
    pub(super) async fn token_review(&self, spec: &Value) -> Result<Value, Status> {
        let token = spec["token"].as_str().unwrap_or_default();
        if token.is_empty() {
            return Err(Status::bad_request("token is required for TokenReview in authentication"));
        }
        let audiences = strings(&spec["audiences"]);
        let authenticator = &self.front.authenticator;
        Ok(match authenticator.token(token, &audiences, self.now.as_second()).await {
            Ok(identity) => {
                let mut status = json!({"authenticated": true, "user": user_info(&identity.user)});
                if !identity.audiences.is_empty() {
                    status["audiences"] = json!(identity.audiences);
                }
                status
            }
            Err(error) => {
                tracing::debug!(%error, "a reviewed token does not hold");
                json!({"user": {}, "error": "invalid bearer token"})
            }
        })
    }
}
