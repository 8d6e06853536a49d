//! An nginx on the far side, which serves files and takes uploads.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::process::{self, Running};
use crate::scratch::Scratch;
use crate::world::World;

/// Time to end in order.
const END_LIMIT: Duration = Duration::from_secs(10);

/// What one nginx does that others do not.
#[derive(Clone, Copy, Debug)]
pub struct Site<'a> {
    /// Options of its `listen`: `http2`, `ssl`.
    pub listen: &'a str,
    /// Directives for all.
    pub http: &'a str,
    /// Directives of the server, whose address `/` answers with `hello` if they do not say otherwise.
    pub server: &'a str,
}

impl Site<'_> {
    /// One of HTTP/1.1.
    pub const PLAIN: Site<'static> =
        Site { listen: "", http: "", server: "location = / { return 200 hello; }" };
}

/// A server; asked to end in order, since its workers outlive a kill.
pub struct Nginx {
    /// The program.
    pub running: Running,
    scratch: Scratch,
}

impl Nginx {
    /// Starts one at an address; or reports that the test is skipped, because there is no nginx.
    #[must_use]
    pub fn start(world: &World, address: SocketAddr, site: Site<'_>) -> Option<Self> {
        let nginx = world.program("nginx")?;
        let scratch = Scratch::new(&format!("nginx-{}-{}", address.ip(), address.port()));
        let folder = scratch.path().display().to_string();
        let Site { listen, http, server } = site;
        let text = format!(
            "user root; daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/log;\n\
             events {{ worker_connections 1024; }} http {{ access_log off; client_body_temp_path {folder}/b;\n\
             proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u;\n\
             scgi_temp_path {folder}/s; client_max_body_size 0; {http}\n\
             server {{ listen {address} {listen}; root {folder}; {server}\n\
             location /new/ {{ dav_methods PUT DELETE; create_full_put_path on; }} }} }}\n"
        );
        let file = scratch.file("nginx.conf", text);
        let running = world.serve(&nginx, &["-c", &file], address);
        Some(Self { running, scratch })
    }

    /// Makes a file that it serves; gives its path.
    #[must_use]
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        self.scratch.file(name, content)
    }

    /// Where a file is, or was put under `new/`.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(Path::new(name))
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = process::signal(self.running.pid(), "-TERM");
        if !std::thread::panicking() {
            self.running.wait(END_LIMIT);
        }
    }
}
