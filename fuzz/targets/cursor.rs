//! The cursor that a client sends back. The input is its text; and, apart from that, the positions of a
//! cursor to be written, 17 bytes for each.

#![no_main]

use libfuzzer_sys::fuzz_target;

use foghorn_core::cursor::{CURSOR_BYTES_MAX, Cursor, CursorError};
use foghorn_core::position::{Epoch, Position};
use foghorn_core::shard::{SHARDS_MAX, ShardCount};

fuzz_target!(|input: &[u8]| {
    if let Ok(text) = std::str::from_utf8(input) {
        read(text);
    }
    write(input);
});

/// Whatever is accepted is the one text of its cursor.
fn read(text: &str) {
    let parsed = foghorn_fuzz::within_memory(text.len(), 2, || Cursor::parse(text));
    assert_eq!(parsed, Cursor::parse(text));
    let Ok(cursor) = parsed else {
        return;
    };
    assert!(text.len() <= CURSOR_BYTES_MAX, "{} bytes", text.len());
    assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._~-".contains(&byte)), "{text:?}");
    assert_eq!(cursor.to_string(), text);
    assert!(!cursor.is_empty());
    for count in 1..=u64::from(SHARDS_MAX) {
        let shards = ShardCount::new(count).expect("within its bounds");
        let within = shards.shards().filter(|shard| cursor.get(*shard).is_some()).count();
        let all = eight().shards().filter(|shard| cursor.get(*shard).is_some()).count();
        assert_eq!(cursor.beyond(shards), within < all);
    }
}

/// Whatever is written is read back, unless it is longer than a cursor may be, which is known before.
fn write(input: &[u8]) {
    let mut cursor = Cursor::default();
    for position in input.chunks_exact(17) {
        let number = |at: usize| {
            let bytes = position[at..at + 8].try_into().expect("eight bytes");
            u64::from_le_bytes(bytes)
        };
        let shard = eight().shard(u64::from(position[0] % SHARDS_MAX)).expect("one of eight");
        // Many of them small, as they are.
        let shift = u32::from(position[0] >> 3);
        cursor.set(Position { shard, epoch: Epoch::new(number(1) >> shift), seq: number(9) >> shift });
    }
    let text = cursor.to_string();
    if cursor.is_empty() {
        assert_eq!(Cursor::parse(&text), Err(CursorError::Malformed));
    } else if text.len() <= CURSOR_BYTES_MAX {
        assert_eq!(Cursor::parse(&text), Ok(cursor), "{text}");
    } else {
        assert_eq!(Cursor::parse(&text), Err(CursorError::Malformed), "{text}");
        assert!(cursor.check_fits().is_err(), "{text}");
    }
}

fn eight() -> ShardCount {
    ShardCount::new(u64::from(SHARDS_MAX)).expect("the most there may be")
}
