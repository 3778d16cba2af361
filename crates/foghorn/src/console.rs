//! The live console at `/console`. It is built from `clients/console` (`cargo xtask client` compares), and embedded, so that
//! building this needs no Node.

use foghorn_http::Response;

use crate::page::{HTML, SCRIPT, STYLE, asset};

/// The file at `path`, if it is one of the console's. Files hold nothing secret: what they show they have to ask for.
pub(crate) fn answer(path: &str) -> Option<Response> {
    Some(match path {
        "/console" | "/console/" => asset(HTML, include_str!("../assets/console/index.html")),
        "/console/console.js" => asset(SCRIPT, include_str!("../assets/console/console.js")),
        "/console/style.css" => asset(STYLE, include_str!("../assets/console/style.css")),
        _ => return None,
    })
}
