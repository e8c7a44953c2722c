//! The closed enums that metrics are labelled with. A label that can take any text is not allowed.

use crate::retry::Class;

/// One dimension of a metric, with all the values it can have.
pub trait Label: Copy + 'static {
    /// In the order of `index`.
    const ALL: &'static [Self];

    fn index(self) -> usize;
    fn as_str(self) -> &'static str;
}

macro_rules! label {
    ($(#[$doc:meta])* $name:ident { $($(#[$item:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$item])* $variant,)* }

        impl Label for $name {
            const ALL: &'static [Self] = &[$($name::$variant),*];

            fn index(self) -> usize {
                self as usize
            }

            fn as_str(self) -> &'static str {
                match self { $($name::$variant => $text,)* }
            }
        }
    };
}

label! {
    /// A server that we cannot work without.
    Dependency { Rabbitmq = "rabbitmq", Postgres = "postgres", Redis = "redis", }
}

label! {
    /// What became of a delivery.
    Outcome {
        /// Acknowledged by us.
        Ack = "ack",
        /// Its session ended first: RabbitMQ will deliver it again.
        Returned = "returned",
    }
}

label! {
    /// Why a batch closed.
    Trigger { Size = "size", Bytes = "bytes", Age = "age", Idle = "idle", Drain = "drain", }
}

label! {
    /// A step of a flush.
    Stage { Store = "store", Projection = "projection", Settle = "settle", }
}

label! {
    /// How Redis differed from Postgres when it was last compared.
    Drift {
        /// Members that Redis lacked.
        Missing = "missing",
        /// Members that no event supported.
        Phantom = "phantom",
    }
}

impl Label for Class {
    const ALL: &'static [Self] = &[Class::Transient, Class::Data, Class::Config];

    fn index(self) -> usize {
        self as usize
    }

    fn as_str(self) -> &'static str {
        match self {
            Class::Transient => "transient",
            Class::Data => "data",
            Class::Config => "config",
        }
    }
}

/// One handle for each value of a label.
pub struct ByLabel<L, H> {
    handles: Vec<H>,
    label: std::marker::PhantomData<L>,
}

impl<L: Label, H> ByLabel<L, H> {
    pub fn new(make: impl Fn(&'static str) -> H) -> ByLabel<L, H> {
        ByLabel {
            handles: L::ALL.iter().map(|label| make(label.as_str())).collect(),
            label: std::marker::PhantomData,
        }
    }

    pub fn of(&self, label: L) -> &H {
        // Made from ALL, which holds every value at its index.
        &self.handles[label.index()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_are_at_their_index<L: Label>() {
        for (at, label) in L::ALL.iter().enumerate() {
            assert_eq!(label.index(), at, "{}", label.as_str());
        }
    }

    #[test]
    fn every_label_finds_its_own_handle() {
        all_are_at_their_index::<Dependency>();
        all_are_at_their_index::<Outcome>();
        all_are_at_their_index::<Trigger>();
        all_are_at_their_index::<Stage>();
        all_are_at_their_index::<Drift>();
        all_are_at_their_index::<Class>();
    }
}
