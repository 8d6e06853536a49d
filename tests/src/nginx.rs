//! nginx as a server.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::process::{self, Running};
use crate::scratch::Scratch;
use crate::world::World;

/// Time to end after SIGTERM.
const END_LIMIT: Duration = Duration::from_secs(10);

/// An nginx that speaks one version of HTTP.
pub struct Nginx {
    running: Running,
    scratch: Scratch,
}

impl Nginx {
    /// Starts one on the far side; `listens` is what its `listen` has behind the address, such as `http2`, and `more` stands in
    /// its `server`. Or reports that the test is skipped.
    #[must_use]
    pub fn start(world: &World, address: SocketAddr, listens: &str, more: &str) -> Option<Self> {
        let nginx = world.program("nginx")?;
        let scratch = Scratch::new(&format!("nginx-{}-{}", address.ip(), address.port()));
        let folder = scratch.path().display().to_string();
        let text = format!(
            "user root; daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/log;\n\
             events {{ worker_connections 1024; }} http {{ access_log off; client_body_temp_path {folder}/b;\n\
             proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u;\n\
             scgi_temp_path {folder}/s; client_max_body_size 0; absolute_redirect off;\n\
             server {{ listen {address} {listens}; root {folder}; {more}\n\
             location = / {{ return 200 \"$server_protocol $request_method $host $http_cookie\"; }}\n\
             location = /none {{ return 204; }} location = /moved {{ return 302 /; }}\n\
             location /new/ {{ dav_methods PUT DELETE; create_full_put_path on; }} }} }}\n"
        );
        let file = scratch.file("nginx.conf", text);
        let running = world.serve(&nginx, &["-c", &file], address);
        Some(Self { running, scratch })
    }

    /// Path of a file that it serves.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// The folder that it serves.
    #[must_use]
    pub fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// The process.
    pub fn running(&mut self) -> &mut Running {
        &mut self.running
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
