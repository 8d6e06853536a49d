//! What holds where the file says nothing, each with its reason. The descriptions in `file.rs` name the same values; a
//! test compares them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use proxy_core::load::adaptive::AdaptivePolicy;
use proxy_core::overload::OverloadPolicy;
use proxy_core::service::{Limits, Outlier, Policy};
use proxy_core::snapshot::{NodeListener, Source};
use proxy_core::tls::TlsVersion;

/// Endpoints see the application's address, as without a proxy.
pub(super) const SOURCE: Source = Source::Pod;
/// Where pods reach it; elsewhere nothing is sent there.
pub(super) const NODE_LISTENER: NodeListener = NodeListener::Auto;

/// The kubelet of the same node.
pub(super) const KUBELET_IP: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// The kubelet's own default.
pub(super) const KUBELET_PORT: u16 = 10250;

/// What most name where they switch it on (`--read-only-port`).
pub(super) const KUBELET_READ_ONLY_PORT: u16 = 10255;

/// Where every pod with a service account has it.
pub(super) const KUBELET_CA: &str = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt";

/// Likewise.
pub(super) const KUBELET_TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// As the kubelet itself looks for changes of its pods' files; an answer costs it some milliseconds.
pub(super) const KUBELET_INTERVAL: Duration = Duration::from_secs(10);

/// Least loaded of two: nearly as even as the best choice, keeps working with slow endpoints, known to the kernel.
pub(super) const POLICY: Policy = Policy::LeastRequest;

/// Half of the connections of two endpoints of weight 1.
pub(super) const WEIGHT: u32 = 1;

/// With `UNHEALTHY` and the faster re-check an endpoint is out after 5 to 10 s, for 12 small requests a minute.
pub(super) const HEALTH_INTERVAL: Duration = Duration::from_secs(5);

/// A server that needs a second for its health page is overloaded.
pub(super) const HEALTH_TIMEOUT: Duration = Duration::from_secs(1);

/// Once can be luck.
pub(super) const HEALTHY: u32 = 2;

/// Once can be bad luck; the second check comes after the short interval, so certainty costs little.
pub(super) const UNHEALTHY: u32 = 2;

/// In doubt the answer is wanted four times as fast ...
pub(super) const UNHEALTHY_INTERVAL_DIVISOR: u32 = 4;

/// ... but a server in trouble is not asked more than ten times a second for that.
pub(super) const UNHEALTHY_INTERVAL_LEAST: Duration = Duration::from_millis(100);

/// Status of a health page that means "well" everywhere.
pub(super) const STATUS: (u16, u16) = (200, 200);

/// As Envoy: five failures in a row are no coincidence, ten seconds outlast a restart, five minutes are noticed.
/// At most half are ejected: when more fail, the network or the client is the cause.
/// Panic is off: when all endpoints are sick, an answer at once (refused) is worth more than a hanging connection.
/// Answers of 500 and above eject nobody unless asked for: see [`Outlier::consecutive_5xx`].
pub(super) const OUTLIER: Outlier = Outlier {
    consecutive_failures: 5,
    consecutive_5xx: 0,
    base_ejection: Duration::from_secs(10),
    max_ejection: Duration::from_secs(300),
    max_ejected_percent: 50,
    panic_percent: 0,
};

/// A lost SYN is sent again after 1 s (RFC 6298, 2.1): this leaves time for one, then another endpoint is tried.
pub(super) const CONNECT_TIMEOUT: Duration = Limits::DEFAULT.connect_timeout;

/// Two more endpoints: an application waits 6 s at most before it is told.
pub(super) const CONNECT_ATTEMPTS: u32 = Limits::DEFAULT.connect_attempts;

/// As Envoy's tcp_proxy: longer than the keep-alives of connection pools, short enough that leaks end some day.
pub(super) const IDLE_TIMEOUT: Option<Duration> = Limits::DEFAULT.idle_timeout;

/// A request that ends with FIN may be answered slowly; a peer that says nothing for five minutes is gone.
pub(super) const HALF_CLOSE_TIMEOUT: Option<Duration> = Limits::DEFAULT.half_close_timeout;

/// About what Linux does by itself (`tcp_retries2` = 15, 924 s). Not shorter, because the time that a slow reader keeps
/// its window shut counts as well.
pub(super) const USER_TIMEOUT: Duration = Limits::DEFAULT.user_timeout;

/// See there.
pub(super) const ADAPTIVE: AdaptivePolicy = AdaptivePolicy::DEFAULT;

/// Every request is copied unless the share says otherwise.
pub(super) const MIRROR_SHARE: u16 = 10_000;

/// What a limit of some requests in each second would mostly say.
pub(super) const FAULT_RETRY_AFTER: Duration = Duration::from_secs(1);

/// As HTTPRoute: nothing that a browser would remember.
pub(super) const REDIRECT_STATUS: u16 = 302;

/// What people write by hand.
pub(super) const CONTENT_TYPE: &str = "text/plain";

/// Versions before it are broken (RFC 8996).
pub(super) const MIN_TLS_VERSION: TlsVersion = TlsVersion::V1_2;

/// Whoever names an authority means clients to have its certificates.
pub(super) const CLIENT_CERTIFICATE_REQUIRED: bool = true;

/// A resumed handshake costs a fifth of a full one, and keys of tickets rotate.
pub(super) const RESUMPTION: bool = true;

/// See there.
pub(super) const OVERLOAD: OverloadPolicy = OverloadPolicy::DEFAULT;

/// As Kubernetes' grace period for a pod, which most applications finish their requests in.
pub(super) const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

/// Loopback, beside the port that Envoy-based meshes use, so that operators find it.
pub(super) const ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 15000);

/// Where systemd and the file system standard want it.
pub(super) const ADMIN_SOCKET: &str = "/run/weir/admin.sock";
