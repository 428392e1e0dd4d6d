//! The id of a persistent entity.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use crate::slice::Slice;

/// The character between entity type and entity id.
pub const SEPARATOR: char = '|';

/// The most characters a persistence id may have: the columns are `VARCHAR(255)`.
pub const MAX_ID_CHARS: usize = 255;

/// Names a persistent entity for ever: normally `entity_type|entity_id`.
///
/// At most 255 characters (Unicode scalar values, as PostgreSQL counts them), without U+0000, and
/// with at least one character above U+0020. Its [`Slice`] is computed once. Cheap to clone.
///
/// ```
/// use perennial_persistence::PersistenceId;
///
/// let id = PersistenceId::new("Account", "4711")?;
/// assert_eq!(id.as_str(), "Account|4711");
/// assert_eq!((id.entity_type(), id.entity_id()), ("Account", "4711"));
/// assert!(PersistenceId::new("Account", "47|11").is_err());
/// # Ok::<(), perennial_persistence::InvalidId>(())
/// ```
#[derive(Clone)]
pub struct PersistenceId {
    text: Arc<str>,
    slice: Slice,
}

impl PersistenceId {
    /// The id of an entity from its type and its id within the type.
    ///
    /// An empty entity id is allowed, as in Pekko.
    ///
    /// # Errors
    /// [`InvalidId`] if a part contains `|`, or the whole is no valid id.
    pub fn new(entity_type: &str, entity_id: &str) -> Result<Self, InvalidId> {
        for part in [entity_type, entity_id] {
            if part.contains(SEPARATOR) {
                return Err(InvalidId::Separator {
                    part: shorten(part),
                });
            }
        }
        Self::of_unique_id(&format!("{entity_type}{SEPARATOR}{entity_id}"))
    }

    /// The id as it stands in a table, whoever wrote it: with or without `|`, replicated or not.
    ///
    /// # Errors
    /// [`InvalidId`] if it is longer than 255 characters, contains U+0000, or has no character
    /// above U+0020.
    ///
    /// Source: Pekko `PersistenceId.ofUniqueId`; the bounds are those of the columns.
    pub fn of_unique_id(text: &str) -> Result<Self, InvalidId> {
        if text.contains('\0') {
            return Err(InvalidId::Nul {
                id: shorten(&text.replace('\0', "\u{FFFD}")),
            });
        }
        if !text.chars().any(|c| c > ' ') {
            return Err(InvalidId::Blank);
        }
        let chars = text.chars().count();
        if chars > MAX_ID_CHARS {
            return Err(InvalidId::TooLong {
                id: shorten(text),
                chars,
            });
        }
        Ok(Self {
            slice: Slice::of(text),
            text: text.into(),
        })
    }

    /// The whole id.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The slice that the whole id hashes to.
    pub fn slice(&self) -> Slice {
        self.slice
    }

    /// The entity type that stands in the tables: what comes before the first `|`, `""` without one.
    pub fn entity_type(&self) -> &str {
        self.text
            .split_once(SEPARATOR)
            .map_or("", |(entity_type, _)| entity_type)
    }

    /// The id within the entity type.
    ///
    /// The whole id without `|`. What follows the first `|` otherwise, except that an id with
    /// exactly two `|` is a replicated one, whose last part names the replica.
    pub fn entity_id(&self) -> &str {
        let Some((_, rest)) = self.text.split_once(SEPARATOR) else {
            return &self.text;
        };
        match rest.split_once(SEPARATOR) {
            // A leading `|` makes the type empty and the id no replicated one in the tables' terms,
            // but Pekko splits it all the same: three parts are type, id and replica.
            Some((entity_id, replica)) if !replica.contains(SEPARATOR) => entity_id,
            _ => rest,
        }
    }
}

impl PartialEq for PersistenceId {
    fn eq(&self, other: &Self) -> bool {
        self.slice == other.slice && self.text == other.text
    }
}

impl Eq for PersistenceId {}

impl PartialOrd for PersistenceId {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// By the bytes of the text, so that all who sort ids sort them alike.
impl Ord for PersistenceId {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.text.cmp(&other.text)
    }
}

impl Hash for PersistenceId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

impl fmt::Display for PersistenceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for PersistenceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PersistenceId({:?})", self.text)
    }
}

impl std::borrow::Borrow<str> for PersistenceId {
    fn borrow(&self) -> &str {
        &self.text
    }
}

/// Why a text is no persistence id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidId {
    /// A part of the id contains the separator.
    #[error(
        "\"{part}\" contains `|`, which separates entity type and entity id; \
         `of_unique_id` takes a whole id"
    )]
    Separator {
        /// The part, shortened.
        part: String,
    },
    /// Longer than the columns.
    #[error("id \"{id}\" has {chars} characters, at most {MAX_ID_CHARS} can be stored")]
    TooLong {
        /// The beginning of the id.
        id: String,
        /// Its length in characters.
        chars: usize,
    },
    /// PostgreSQL text cannot hold U+0000.
    #[error("id \"{id}\" contains U+0000, which cannot be stored")]
    Nul {
        /// The id with U+FFFD for each U+0000, shortened.
        id: String,
    },
    /// Empty, or nothing but spaces and control characters.
    #[error("an id needs at least one character above U+0020")]
    Blank,
}

/// The beginning of a text that may be long, for messages.
fn shorten(text: &str) -> String {
    const SHOWN: usize = 40;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// (id, UTF-16 units, slice, entity type): the vectors of `docs/formats.md`, computed with
    /// Java 17's `String.hashCode`.
    const VECTORS: [(&str, usize, u16, &str); 25] = [
        ("", 0, 0, ""),
        ("Cart|", 5, 316, "Cart"),
        ("a|b", 3, 903, "a"),
        ("TestEntity|p1", 13, 1000, "TestEntity"),
        ("ShoppingCart|cart-1", 19, 392, "ShoppingCart"),
        (
            "ShoppingCart|0f3f1d0e-7a41-4c1b-9f5e-0c8c5f5b2a11",
            49,
            404,
            "ShoppingCart",
        ),
        ("Order|42", 8, 524, "Order"),
        ("order-without-type", 18, 706, ""),
        ("polygenelubricants", 18, 0, ""),
        ("Wallet|-1", 9, 921, "Wallet"),
        ("계좌|홍길동", 6, 518, "계좌"),
        ("주문|서울-001", 9, 960, "주문"),
        ("장바구니|가나다", 8, 517, "장바구니"),
        ("User|\u{1F600}", 7, 788, "User"),
        (
            "User|\u{1F468}\u{200D}\u{1F469}\u{200D}\u{1F467}\u{200D}\u{1F466}",
            16,
            124,
            "User",
        ),
        ("User|\u{1D11E}clef", 11, 411, "User"),
        ("사용자|\u{20BB7}野家", 8, 826, "사용자"),
        ("Device|\u{00E9}", 8, 227, "Device"),
        ("Device|e\u{0301}", 9, 642, "Device"),
        ("Account|alice|DC-A", 18, 958, "Account"),
        ("Account|alice|DC-B", 18, 959, "Account"),
        ("AaAaAa|BBBBBB", 13, 132, "AaAaAa"),
        ("Ä|ö", 3, 958, "Ä"),
        ("BulkProcessor|user-1", 20, 341, "BulkProcessor"),
        ("mgmt|00000000-0000-0000-0000-000000000000", 41, 667, "mgmt"),
    ];

    #[test]
    fn slices_and_entity_types_equal_the_vectors_of_the_specification() {
        for (text, units, slice, entity_type) in VECTORS {
            assert_eq!(text.encode_utf16().count(), units, "{text}");
            assert_eq!(Slice::of(text).value(), slice, "{text}");
            if !text.is_empty() {
                let id = PersistenceId::of_unique_id(text).expect(text);
                assert_eq!(id.slice().value(), slice, "{text}");
                assert_eq!(id.entity_type(), entity_type, "{text}");
            }
        }
    }

    #[test]
    fn parts_are_split_as_pekko_splits_them() {
        for (text, entity_type, entity_id) in [
            ("plain", "", "plain"),
            ("a|b", "a", "b"),
            ("a|b|r", "a", "b"),
            ("a|b|", "a", "b"),
            ("a|b|c|d", "a", "b|c|d"),
            ("|x", "", "x"),
            ("|b|c", "", "b"),
            ("Cart|", "Cart", ""),
        ] {
            let id = PersistenceId::of_unique_id(text).expect(text);
            assert_eq!(
                (id.entity_type(), id.entity_id()),
                (entity_type, entity_id),
                "{text}"
            );
        }
    }

    #[test]
    fn length_is_bounded_in_characters_not_bytes() {
        for unit in ["a", "한", "\u{1F600}"] {
            assert!(PersistenceId::of_unique_id(&unit.repeat(255)).is_ok());
            assert!(matches!(
                PersistenceId::of_unique_id(&unit.repeat(256)),
                Err(InvalidId::TooLong { chars: 256, .. })
            ));
        }
    }

    #[test]
    fn ids_that_cannot_be_stored_are_refused() {
        assert!(matches!(
            PersistenceId::of_unique_id("a\0b"),
            Err(InvalidId::Nul { .. })
        ));
        for blank in ["", " ", "\u{1}\u{20}"] {
            assert_eq!(PersistenceId::of_unique_id(blank), Err(InvalidId::Blank));
        }
        for only_java_keeps in ["\u{A0}", "\u{3000}"] {
            assert!(PersistenceId::of_unique_id(only_java_keeps).is_ok());
        }
        assert!(matches!(
            PersistenceId::new("a|b", "c"),
            Err(InvalidId::Separator { .. })
        ));
        assert_eq!(
            PersistenceId::new("Cart", "")
                .expect("as in Pekko")
                .as_str(),
            "Cart|"
        );
    }
}
