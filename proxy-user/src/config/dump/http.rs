//! Bounds on HTTP and TLS, back to what one would write.

use std::path::PathBuf;

use proxy_core::http::HttpLimits;
use proxy_core::http2::Pings;
use proxy_core::tls::{CertificateFiles, ClientTls, ServerTls, TlsVersion};

use super::super::de::At;
use super::super::file;
use super::super::text::{Host, Size, SubjectName, Time, TimeOrOff, TlsFile};

/// Bounds that are as by default are not printed: where no HTTP is spoken, there must be none.
pub(super) fn limits(limits: &HttpLimits) -> Option<At<file::HttpLimits>> {
    (*limits != HttpLimits::DEFAULT).then(|| {
        At::nowhere(file::HttpLimits {
            max_head: Some(At::nowhere(Size(limits.head_bytes.into()))),
            max_headers: Some(limits.header_count),
            head_timeout: Some(Time(limits.head_timeout)),
            idle_timeout: Some(TimeOrOff(limits.idle_timeout)),
            body_timeout: Some(Time(limits.body_timeout)),
            max_request_body: limits.request_bytes.map(Size),
            max_response_body: limits.response_bytes.map(Size),
            max_grpc_message: limits.message_bytes.map(|bytes| At::nowhere(Size(bytes.into()))),
            max_connection_age: Some(TimeOrOff(limits.max_age)),
            max_connection_age_grace: Some(TimeOrOff(limits.max_age_grace)),
            ping: (limits.pings != Pings::DEFAULT).then(|| ping(&limits.pings)),
        })
    })
}

/// Those to endpoints only if they are not as by default: a listener has none.
fn ping(pings: &Pings) -> file::Ping {
    let endpoints = Some(pings.endpoints).filter(|endpoints| *endpoints != Pings::DEFAULT.endpoints);
    file::Ping {
        clients: Some(TimeOrOff(pings.clients)),
        endpoints: endpoints.map(|time| At::nowhere(TimeOrOff(time))),
        timeout: Some(Time(pings.timeout)),
    }
}

pub(super) fn server_tls(tls: &ServerTls) -> At<file::ServerTls> {
    let files = |files: &CertificateFiles| file::CertificateFiles {
        cert: TlsFile(files.cert.clone()),
        key: TlsFile(files.key.clone()),
    };
    At::nowhere(file::ServerTls {
        certificates: At::nowhere(tls.certificates.iter().map(files).collect()),
        min_version: Some(version(tls.min_version)),
        client_auth: tls.client_auth.as_ref().map(|auth| file::ClientAuth {
            ca: TlsFile(auth.ca.clone()),
            required: Some(auth.is_required),
            san: auth.san.iter().cloned().map(SubjectName).collect(),
        }),
        resumption: Some(tls.is_resuming),
    })
}

pub(super) fn client_tls(tls: &ClientTls) -> At<file::ClientTls> {
    let file = |path: &PathBuf| At::nowhere(TlsFile(path.clone()));
    At::nowhere(file::ClientTls {
        ca: tls.ca.clone().map(TlsFile),
        sni: tls.sni.clone().map(Host),
        cert: tls.certificate.as_ref().map(|files| file(&files.cert)),
        key: tls.certificate.as_ref().map(|files| file(&files.key)),
        min_version: Some(version(tls.min_version)),
    })
}

fn version(version: TlsVersion) -> file::TlsVersion {
    match version {
        TlsVersion::V1_2 => file::TlsVersion::V1_2,
        TlsVersion::V1_3 => file::TlsVersion::V1_3,
    }
}
