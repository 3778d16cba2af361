//! Server-Sent Events as bytes (WHATWG HTML, section 9.2): what we write and how it is read back.
//!
//! A **frame** is one event block with its `id:` line first, so that a listener on several shards can
//! be sent another `id:` and the same rest.

mod decode;
mod encode;

pub use decode::{Block, Decoder};
pub use encode::{ControlFrame, encode_frame, envelope, frame_data, frame_len, id_line};
