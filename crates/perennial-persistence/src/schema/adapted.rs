//! A type that stands in the journal as another one.

use std::fmt;
use std::marker::PhantomData;

use crate::payload::{Codec, CodecError, SerializedPayload};
use crate::schema::Named;

/// Stores values of `T` as values of `J`, a type of the journal's own.
///
/// On the way in, one value becomes one; on the way back one becomes none, one or several. For
/// snapshots it gives exactly one.
///
/// ```
/// use perennial_persistence::{Adapted, Codec, MessagePack};
///
/// /// What the program works with.
/// #[derive(Debug, PartialEq)]
/// enum Moved {
///     In(i64),
///     Out(i64),
/// }
///
/// // In the journal it is one signed number; of old rows 0 means nothing.
/// let codec = Adapted::new(
///     MessagePack::<i64>::new("Moved"),
///     |moved| match moved {
///         Moved::In(cents) => *cents,
///         Moved::Out(cents) => -cents,
///     },
///     |cents| match cents {
///         0 => None,
///         1.. => Some(Moved::In(cents)),
///         _ => Some(Moved::Out(-cents)),
///     },
/// );
/// let payload = codec.encode(&Moved::Out(5))?;
/// assert_eq!(codec.decode(&payload)?, Moved::Out(5));
/// # Ok::<(), perennial_persistence::CodecError>(())
/// ```
pub struct Adapted<T, J, C> {
    codec: C,
    to_journal: ToJournal<T, J>,
    from_journal: FromJournal<T, J>,
    types: PhantomData<fn(J) -> T>,
}

type ToJournal<T, J> = Box<dyn Fn(&T) -> J + Send + Sync>;
type FromJournal<T, J> = Box<dyn Fn(J, &mut dyn FnMut(T)) + Send + Sync>;

impl<T, J, C: Codec<J>> Adapted<T, J, C> {
    /// Writes what `to_journal` makes, with `codec`; gives what `from_journal` makes, in order.
    pub fn new<I: IntoIterator<Item = T>>(
        codec: C,
        to_journal: impl Fn(&T) -> J + Send + Sync + 'static,
        from_journal: impl Fn(J) -> I + Send + Sync + 'static,
    ) -> Self {
        Self {
            codec,
            to_journal: Box::new(to_journal),
            from_journal: Box::new(move |value, each| {
                from_journal(value).into_iter().for_each(each)
            }),
            types: PhantomData,
        }
    }
}

impl<T: 'static, J: 'static, C: Codec<J>> Codec<T> for Adapted<T, J, C> {
    fn encode(&self, value: &T) -> Result<SerializedPayload, CodecError> {
        self.codec.encode(&(self.to_journal)(value))
    }

    fn decode(&self, payload: &SerializedPayload) -> Result<T, CodecError> {
        super::decode_one(self, payload)
    }

    fn decode_each(
        &self,
        payload: &SerializedPayload,
        each: &mut dyn FnMut(T),
    ) -> Result<(), CodecError> {
        self.codec
            .decode_each(payload, &mut |value| (self.from_journal)(value, each))
    }
}

impl<T: 'static, J: 'static, C: Named<J>> Named<T> for Adapted<T, J, C> {
    fn written(&self) -> Vec<String> {
        self.codec.written()
    }
}

impl<T, J, C: fmt::Debug> fmt::Debug for Adapted<T, J, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Adapted")
            .field("codec", &self.codec)
            .finish_non_exhaustive()
    }
}
