//! Pictures of results, written by hand: a dependency for a few lines of text would be one too many.

mod bars;
mod curves;

pub use bars::bars;
pub use curves::curves;

use crate::results::Row;

/// A whole file around its content.
fn page(width: usize, height: usize, content: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n{content}</svg>\n"
    )
}

/// Weir stands out, what is no product stands back.
fn color(row: &Row) -> &'static str {
    match (row.name.starts_with("weir"), row.is_rival) {
        (true, _) => "#0b7a75",
        (_, true) => "#b0b7bf",
        _ => "#dfe3e8",
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
