//! Bounds on HTTP and TLS: from the file's types to values.

use std::path::Path;

use proxy_core::http::HttpLimits;
use proxy_core::http2::Pings;
use proxy_core::tls::{CertificateFiles, ClientAuth, ClientTls, ServerTls, TlsVersion};

use super::super::text::TlsFile;
use super::super::{default, file};

pub(super) fn limits(limits: &file::HttpLimits) -> HttpLimits {
    let usual = HttpLimits::DEFAULT;
    HttpLimits {
        // Larger ones are refused.
        head_bytes: limits
            .max_head
            .as_ref()
            .map_or(usual.head_bytes, |at| u32::try_from(at.value.0).unwrap_or(u32::MAX)),
        header_count: limits.max_headers.unwrap_or(usual.header_count),
        head_timeout: limits.head_timeout.as_ref().map_or(usual.head_timeout, |time| time.0),
        idle_timeout: limits.idle_timeout.as_ref().map_or(usual.idle_timeout, |time| time.0),
        body_timeout: limits.body_timeout.as_ref().map_or(usual.body_timeout, |time| time.0),
        request_bytes: limits.max_request_body.as_ref().map(|size| size.0),
        response_bytes: limits.max_response_body.as_ref().map(|size| size.0),
        message_bytes: limits
            .max_grpc_message
            .as_ref()
            .map(|at| u32::try_from(at.value.0).unwrap_or(u32::MAX)),
        pings: limits.ping.as_ref().map_or(usual.pings, pings),
        max_age: limits.max_connection_age.as_ref().map_or(usual.max_age, |time| time.0),
        max_age_grace: limits.max_connection_age_grace.as_ref().map_or(usual.max_age_grace, |time| time.0),
    }
}

fn pings(ping: &file::Ping) -> Pings {
    let usual = Pings::DEFAULT;
    Pings {
        clients: ping.clients.as_ref().map_or(usual.clients, |time| time.0),
        endpoints: ping.endpoints.as_ref().map_or(usual.endpoints, |at| at.value.0),
        timeout: ping.timeout.as_ref().map_or(usual.timeout, |time| time.0),
    }
}

pub(super) fn server_tls(tls: &file::ServerTls, folder: &Path) -> ServerTls {
    let files = |files: &file::CertificateFiles| certificate(&files.cert, &files.key, folder);
    ServerTls {
        certificates: tls.certificates.value.iter().map(files).collect(),
        min_version: version(tls.min_version),
        client_auth: tls.client_auth.as_ref().map(|auth| ClientAuth {
            ca: folder.join(&auth.ca.0),
            is_required: auth.required.unwrap_or(default::CLIENT_CERTIFICATE_REQUIRED),
            san: auth.san.iter().map(|name| name.0.clone()).collect(),
        }),
        is_resuming: tls.resumption.unwrap_or(default::RESUMPTION),
    }
}

pub(super) fn client_tls(tls: &file::ClientTls, folder: &Path) -> ClientTls {
    ClientTls {
        ca: tls.ca.as_ref().map(|ca| folder.join(&ca.0)),
        sni: tls.sni.as_ref().map(|name| name.0.clone()),
        certificate: match (&tls.cert, &tls.key) {
            (Some(cert), Some(key)) => Some(certificate(&cert.value, &key.value, folder)),
            _ => None,
        },
        min_version: version(tls.min_version),
    }
}

fn certificate(cert: &TlsFile, key: &TlsFile, folder: &Path) -> CertificateFiles {
    CertificateFiles { cert: folder.join(&cert.0), key: folder.join(&key.0) }
}

fn version(version: Option<file::TlsVersion>) -> TlsVersion {
    match version {
        None => default::MIN_TLS_VERSION,
        Some(file::TlsVersion::V1_2) => TlsVersion::V1_2,
        Some(file::TlsVersion::V1_3) => TlsVersion::V1_3,
    }
}
