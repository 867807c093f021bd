"""What lies on a disk: bundles, manifests, signatures, galleries; and how outputs appear whole or not at all."""
