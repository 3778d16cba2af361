//! Hints at what a mistyped name was meant to be.

/// The longest name, in bytes, that is compared with known ones or shown whole. Comparing costs the
/// product of the lengths, and whoever sends a request chooses this one.
const NAME_BYTES: usize = 64;

/// The one of `known` that `name` is probably meant to be; none for names above 64 bytes.
pub fn near_match<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    if name.len() > NAME_BYTES {
        return None;
    }
    let likeness = |known: &str| strsim::jaro_winkler(known, name);
    let nearest = known.iter().copied().max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    nearest.filter(|near| likeness(near) > 0.75)
}

/// `name` as an error shows it: at most 64 bytes of it.
pub fn shown(name: &str) -> String {
    if name.len() <= NAME_BYTES {
        return name.to_owned();
    }
    format!("{}…", &name[..name.floor_char_boundary(NAME_BYTES)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_name_is_neither_compared_nor_repeated() {
        let known = ["channel", "channels"];
        assert_eq!(near_match("chanel", &known), Some("channel"));
        assert_eq!(near_match("zzz", &known), None);
        // So like a known name that it would be found if it were compared.
        let long = format!("channels{}", "x".repeat(NAME_BYTES));
        assert!(strsim::jaro_winkler("channels", &long) > 0.75);
        assert_eq!(near_match(&long, &known), None);
        assert_eq!(shown("chanel"), "chanel");
        assert_eq!(shown(&"é".repeat(1000)), format!("{}…", "é".repeat(32)));
    }
}
