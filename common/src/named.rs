//! Enumerations of which each value has a name and a place: the reasons and kinds that are counted, shown and configured by name.

/// Makes an enumeration whose values are written with their names, `Value => "name",`: with `COUNT`, `ALL` in the order in which they are
/// written, `index`, a value's place among them, and `name`. It takes attributes as any other; no two values may have one name.
///
/// ```
/// common::named! {
///     /// How it went.
///     #[derive(Clone, Copy, Debug, PartialEq, Eq)]
///     enum Outcome {
///         /// Well.
///         Done => "done",
///         /// Not at all.
///         GivenUp => "given_up",
///     }
/// }
/// assert_eq!(Outcome::ALL.map(Outcome::name), ["done", "given_up"]);
/// assert_eq!((Outcome::COUNT, Outcome::GivenUp.index()), (2, 1));
/// ```
#[macro_export]
macro_rules! named {
    (
        $(#[$attribute:meta])*
        $visibility:vis enum $type:ident {
            $($(#[$of_value:meta])* $value:ident => $name:literal,)+
        }
    ) => {
        $(#[$attribute])*
        $visibility enum $type {
            $($(#[$of_value])* $value,)+
        }

        #[allow(dead_code, reason = "not all of this is of use for each")]
        impl $type {
            /// How many there are.
            $visibility const COUNT: usize = Self::ALL.len();

            /// All of them, in the order of their places.
            $visibility const ALL: [Self; [$($name),+].len()] = [$(Self::$value),+];

            /// Its place in [`Self::ALL`].
            #[must_use]
            $visibility const fn index(self) -> usize {
                self as usize
            }

            /// Its name, the same wherever it is shown, counted or read.
            #[must_use]
            $visibility const fn name(self) -> &'static str {
                match self {
                    $(Self::$value => $name,)+
                }
            }
        }

        const _: () = assert!($crate::named::all_differ(&[$($name),+]), "two values have one name");
    };
}

/// Whether no two of the names are the same.
#[must_use]
pub const fn all_differ(names: &[&str]) -> bool {
    let mut first = 0;
    while first < names.len() {
        let mut second = first + 1;
        while second < names.len() {
            if are_equal(names[first].as_bytes(), names[second].as_bytes()) {
                return false;
            }
            second += 1;
        }
        first += 1;
    }
    true
}

/// Comparing slices by `==` is nothing that is done while compiling.
const fn are_equal(one: &[u8], other: &[u8]) -> bool {
    if one.len() != other.len() {
        return false;
    }
    let mut index = 0;
    while index < one.len() {
        if one[index] != other[index] {
            return false;
        }
        index += 1;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::named! {
        /// For the test.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        enum Fruit {
            /// The first one.
            Apple => "apple",
            #[default]
            BlackBerry => "black_berry",
            Cherry => "cherry",
        }
    }

    #[test]
    fn each_has_its_place_and_its_name() {
        assert_eq!(Fruit::ALL, [Fruit::Apple, Fruit::BlackBerry, Fruit::Cherry]);
        assert_eq!(Fruit::ALL.map(Fruit::name), ["apple", "black_berry", "cherry"]);
        assert_eq!(Fruit::ALL.map(Fruit::index), [0, 1, 2]);
        assert_eq!((Fruit::COUNT, Fruit::default()), (3, Fruit::BlackBerry));
    }

    #[test]
    fn a_name_that_is_there_twice_is_found() {
        assert!(all_differ(&[]) && all_differ(&["a", "b", "ab", "ba"]));
        assert!(!all_differ(&["a", "b", "a"]) && !all_differ(&["b", "ab", "ab"]));
    }
}
