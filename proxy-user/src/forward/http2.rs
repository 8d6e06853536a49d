//! Heads of HTTP/2 on their way to and from HTTP/1.1, and tunnels in both.

mod head;
mod tunnel;

pub use self::head::{
    Asked, answer_of_http1, check_size, edit_answer, of_http1, of_http2, trailers, write_answer,
    write_request, write_trailers,
};
pub use self::tunnel::{Opening, Tunnel, set_opened, set_switched};
