//! Values as the bytes that a C compiler lays out, without `unsafe`: one field after the other, padding written out.

/// A value with a fixed number of bytes in a map.
pub trait Abi: Sized {
    /// How many bytes it takes.
    const SIZE: usize;

    /// Adds its bytes.
    fn put(&self, out: &mut Vec<u8>);

    /// Takes its bytes from the front; `None` if there are too few.
    fn take(bytes: &mut &[u8]) -> Option<Self>;

    /// Its bytes, [`Self::SIZE`] of them.
    fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(Self::SIZE);
        self.put(&mut out);
        out
    }

    /// The value of these bytes; `None` if they are not [`Self::SIZE`].
    fn from_bytes(mut bytes: &[u8]) -> Option<Self> {
        let value = Self::take(&mut bytes)?;
        bytes.is_empty().then_some(value)
    }
}

macro_rules! integers {
    ($($integer:ty),*) => {
        $(impl Abi for $integer {
            const SIZE: usize = size_of::<Self>();

            fn put(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_ne_bytes());
            }

            fn take(bytes: &mut &[u8]) -> Option<Self> {
                let (first, rest) = bytes.split_first_chunk()?;
                *bytes = rest;
                Some(Self::from_ne_bytes(*first))
            }
        })*
    };
}

integers!(u8, u16, u32, u64);

impl<T: Abi + Copy + Default, const COUNT: usize> Abi for [T; COUNT] {
    const SIZE: usize = T::SIZE * COUNT;

    fn put(&self, out: &mut Vec<u8>) {
        self.iter().for_each(|value| value.put(out));
    }

    fn take(bytes: &mut &[u8]) -> Option<Self> {
        let mut values = [T::default(); COUNT];
        for value in &mut values {
            *value = T::take(bytes)?;
        }
        Some(values)
    }
}

/// Declares twins of C structs: plain values with [`Abi`], and their fields' names and sizes for the comparison with the
/// header.
macro_rules! twins {
    ($($(#[doc = $doc:literal])* $c_name:literal $name:ident {
        $($(#[doc = $field_doc:literal])* $field:ident: $kind:ty,)*
    })*) => {
        $($(#[doc = $doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name {
            $($(#[doc = $field_doc])* pub $field: $kind,)*
        }

        impl Abi for $name {
            const SIZE: usize = 0 $(+ <$kind as Abi>::SIZE)*;

            fn put(&self, out: &mut Vec<u8>) {
                $(self.$field.put(out);)*
            }

            fn take(bytes: &mut &[u8]) -> Option<Self> {
                Some(Self { $($field: <$kind as Abi>::take(bytes)?,)* })
            }
        })*

        /// A field's name and size.
        #[cfg(test)]
        pub(crate) type TwinField = (&'static str, usize);

        /// Each struct's name in C, its fields, and its size.
        #[cfg(test)]
        pub(crate) const TWINS: &[(&str, &[TwinField], usize)] =
            &[$(($c_name, &[$((stringify!($field), <$kind as Abi>::SIZE)),*], $name::SIZE)),*];
    };
}

/// Declares constants of the header, and lists them for the comparison with it.
macro_rules! constants {
    ($($(#[doc = $doc:literal])* $name:ident: $kind:ty = $value:literal;)*) => {
        $($(#[doc = $doc])* pub const $name: $kind = $value;)*

        /// Each constant's name and value.
        #[cfg(test)]
        const CONSTANTS: &[(&str, u64)] = &[$((stringify!($name), $value)),*];
    };
}

pub(crate) use {constants, twins};
