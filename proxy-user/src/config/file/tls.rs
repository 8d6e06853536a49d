//! TLS in the file. A path that does not begin with `/` is relative to the folder of the file.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::de::At;
use super::super::text::{Host, SubjectName, TlsFile};

/// TLS that ends here.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct ServerTls {
    /// Certificates, chosen by the name that a client asks for (SNI); the first one answers where none fits. Of several for a name,
    /// the first whose kind of key the client understands.
    #[schemars(length(min = 1))]
    pub(in crate::config) certificates: At<Vec<CertificateFiles>>,
    /// Lowest version that is spoken. Default: `1.2`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) min_version: Option<TlsVersion>,
    /// Ask clients for certificates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) client_auth: Option<ClientAuth>,
    /// Whether sessions may be resumed. Default: `true`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) resumption: Option<bool>,
}

/// A certificate chain and its key, as PEM files.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct CertificateFiles {
    /// The chain, the own certificate first.
    pub(in crate::config) cert: TlsFile,
    /// The private key.
    pub(in crate::config) key: TlsFile,
}

/// Versions.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
pub(in crate::config) enum TlsVersion {
    /// TLS 1.2.
    #[serde(rename = "1.2")]
    V1_2,
    /// TLS 1.3.
    #[serde(rename = "1.3")]
    V1_3,
}

/// What is asked of clients.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct ClientAuth {
    /// PEM file of the authorities that are believed.
    pub(in crate::config) ca: TlsFile,
    /// Whether clients without a certificate are refused. Default: `true`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) required: Option<bool>,
    /// Names (DNS or URI) one of which a client's certificate must bear; `*.` stands for one label. Any if empty.
    #[serde(default)]
    pub(in crate::config) san: Vec<SubjectName>,
}

/// TLS to endpoints.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct ClientTls {
    /// PEM file of the authorities that are believed. The system's if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) ca: Option<TlsFile>,
    /// Name that is asked for and verified. If absent, the endpoint's address is verified.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) sni: Option<Host>,
    /// PEM file of the own certificate, for endpoints that ask for one; together with `key`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) cert: Option<At<TlsFile>>,
    /// Its private key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) key: Option<At<TlsFile>>,
    /// Lowest version that is spoken. Default: `1.2`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) min_version: Option<TlsVersion>,
}
