//! Heads of HTTP/2 on their way to and from HTTP/1.1, and tunnels in both.

mod head;
mod tunnel;

pub use self::head::{
    Asked, check_size, edit_response, of_http1, of_http2, response_of_http1, trailers, write_request,
    write_response, write_trailers,
};
pub use self::tunnel::{Opening, Tunnel, set_opened, set_switched};
