//! The HTTP proxy: one route by host and path, to one address.

use std::sync::Arc;

use async_trait::async_trait;
use pingora_core::apps::HttpServerOptions;
use pingora_core::listeners::tls::TlsSettings;
use pingora_core::server::configuration::ServerConf;
use pingora_core::services::listening::Service;
use pingora_core::tls::ssl::{SslOptions, SslSessionCacheMode, SslVersion};
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, ErrorType, Result};
use pingora_proxy::{HttpProxy, ProxyHttp, Session};

/// The route: requests for this host, and for paths with this prefix.
const HOST: &str = "bench.test";
const PREFIX: &str = "/";
/// Requests at once on one upstream connection; Pingora has one without being told.
const MOST_STREAMS: usize = 100;

/// Paths of what TLS needs.
#[derive(Default)]
pub(crate) struct Certificate {
    pub(crate) cert: String,
    pub(crate) key: String,
}

/// Sends what is asked of the route to one address.
pub(crate) struct Gateway {
    peer: HttpPeer,
}

#[async_trait]
impl ProxyHttp for Gateway {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(&self, session: &mut Session, (): &mut ()) -> Result<Box<HttpPeer>> {
        let request = session.req_header();
        let named = request.headers.get("host").and_then(|host| host.to_str().ok());
        let is_host = named.or(request.uri.host()) == Some(HOST);
        if is_host && request.uri.path().starts_with(PREFIX) {
            Ok(Box::new(self.peer.clone()))
        } else {
            Err(Error::new(ErrorType::HTTPStatus(404)))
        }
    }
}

/// One listener of `kind`: `http`, `https` (to HTTP without TLS), or `h2` (HTTP/2 without TLS on both sides).
pub(crate) fn service(
    conf: &Arc<ServerConf>,
    kind: &str,
    listen: &str,
    target: &str,
    certificate: &Certificate,
) -> Result<Service<HttpProxy<Gateway, ()>>> {
    let mut peer = HttpPeer::new(target, false, HOST.to_owned());
    if kind == "h2" {
        peer.options.set_http_version(2, 2);
        peer.options.max_h2_streams = MOST_STREAMS;
    }
    let mut service = pingora_proxy::http_proxy_service(conf, Gateway { peer });
    if kind == "https" {
        service.add_tls_with_settings(listen, None, tls(certificate)?);
    } else {
        service.add_tcp(listen);
    }
    if kind == "h2"
        && let Some(app) = service.app_logic_mut()
    {
        let mut options = HttpServerOptions::default();
        options.h2c = true;
        app.server_options = Some(options);
    }
    Ok(service)
}

/// TLS 1.3 without resumption, as everybody has it in the bench.
fn tls(certificate: &Certificate) -> Result<TlsSettings> {
    let mut tls = TlsSettings::intermediate(&certificate.cert, &certificate.key)?;
    let because = |error: &dyn std::fmt::Display| Error::explain(ErrorType::InternalError, error.to_string());
    tls.set_min_proto_version(Some(SslVersion::TLS1_3)).map_err(|error| because(&error))?;
    tls.set_max_proto_version(Some(SslVersion::TLS1_3)).map_err(|error| because(&error))?;
    tls.set_options(SslOptions::NO_TICKET);
    tls.set_session_cache_mode(SslSessionCacheMode::OFF);
    tls.set_num_tickets(0).map_err(|error| because(&error))?;
    Ok(tls)
}
