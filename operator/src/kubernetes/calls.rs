//! Counts the calls of the API server, whoever makes them.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use futures::future::BoxFuture;
use http::{Method, Request, Response};
use tower::{Layer, Service};

use super::metrics::Metrics;

/// Counts what passes through a client.
#[derive(Clone, Debug)]
pub(super) struct CountCalls(pub(super) Arc<Metrics>);

impl<S> Layer<S> for CountCalls {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Counted {
            inner,
            metrics: self.0.clone(),
        }
    }
}

/// A service whose answers are counted.
#[derive(Clone, Debug)]
pub(super) struct Counted<S> {
    inner: S,
    metrics: Arc<Metrics>,
}

impl<S, A, B> Service<Request<A>> for Counted<S>
where
    S: Service<Request<A>, Response = Response<B>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        let verb = verb(request.method(), request.uri().query());
        let resource = resource(request.uri().path());
        let metrics = self.metrics.clone();
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await;
            let code = answer.as_ref().map_or(0, |answer| answer.status().as_u16());
            metrics.called(resource, verb, code);
            answer
        })
    }
}

/// As Kubernetes calls them, but for lists, which count as `get`.
/// Source: <https://kubernetes.io/docs/reference/access-authn-authz/authorization/#determine-the-request-verb>
fn verb(method: &Method, query: Option<&str>) -> &'static str {
    let watches = || {
        let mut parameters = query.unwrap_or_default().split('&');
        parameters.any(|one| matches!(one, "watch=true" | "watch=1"))
    };
    match *method {
        Method::GET if watches() => "watch",
        Method::GET => "get",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "other",
    }
}

/// The resources that the operator has to do with.
const RESOURCES: [&str; 13] = [
    "configmaps",
    "deployments",
    "events",
    "leases",
    "networkpolicies",
    "pgpoolclusters",
    "poddisruptionbudgets",
    "pods",
    "replicasets",
    "secrets",
    "serviceaccounts",
    "services",
    "namespaces",
];

/// The resource in a path such as `/apis/apps/v1/namespaces/shop/deployments/a`.
fn resource(path: &str) -> &'static str {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    // After the version; in a namespace, after its name.
    let rest = match parts.first() {
        Some(&"api") => parts.get(2..),
        Some(&"apis") => parts.get(3..),
        _ => None,
    };
    let named = match rest.unwrap_or_default() {
        ["namespaces", _, resource, ..] => *resource,
        [resource, ..] => *resource,
        [] => "",
    };
    let known = RESOURCES.iter().find(|resource| **resource == named);
    known.copied().unwrap_or("other")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_told_apart() {
        for (path, expected) in [
            ("/api/v1/namespaces/shop/pods/a", "pods"),
            ("/api/v1/secrets", "secrets"),
            ("/apis/apps/v1/namespaces/shop/deployments", "deployments"),
            (
                "/apis/poolkeeper.dev/v1alpha1/namespaces/a/pgpoolclusters/b/status",
                "pgpoolclusters",
            ),
            ("/version", "other"),
            ("/api/v1/namespaces/shop/unheardof/x", "other"),
        ] {
            assert_eq!(resource(path), expected, "{path}");
        }
        let get = |query| verb(&Method::GET, query);
        assert_eq!(get(Some("timeoutSeconds=9&watch=true")), "watch");
        assert_eq!(get(Some("labelSelector=watch")), "get");
        assert_eq!(verb(&Method::PATCH, None), "patch");
    }
}
